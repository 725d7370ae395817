"""Augmentations in training: the eight reflections and rotations, and changes of the appearance."""

from __future__ import annotations

import tellapart
from tellapart import InputError
from tellapart.data.augmentations import RandomAppearance, RandomDihedral, build_augmentations

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import transforms as T


def config(**options):
    cfg = get_cfg()
    tellapart.add_config(cfg)
    cfg.INPUT.AUGMENTATION.update(options)
    return cfg


@pytest.mark.parametrize("shape", [(6, 9, 3), (6, 9, 1), (6, 9)])
def test_all_eight_occur_and_points_follow(shape):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    seen = set()
    for seed in range(80):
        np.random.seed(seed)
        transform = RandomDihedral().get_transform(image)
        result = transform.apply_image(image)
        x, y = transform.apply_coords(np.array([[2.5, 3.5]]))[0].astype(int)
        assert np.array_equal(result[y, x], image[3, 2])
        assert np.array_equal(transform.apply_segmentation(image), result)
        assert np.array_equal(transform.inverse().apply_image(result), image)
        seen.add(result.tobytes() + bytes(result.shape))
    assert len(seen) == 8


def test_boxes_and_polygons_follow():
    np.random.seed(1)
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 4:24] = 1
    polygon = np.array([[4.0, 3.0], [24.0, 3.0], [24.0, 9.0], [4.0, 9.0]])
    for _ in range(20):
        transform = RandomDihedral().get_transform(mask)
        y, x = transform.apply_segmentation(mask).nonzero()
        expected = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert transform.apply_box(np.array([[4.0, 3.0, 24.0, 9.0]]))[0].tolist() == expected
        points = transform.apply_polygons([polygon.copy()])[0]
        assert [*points.min(0), *points.max(0)] == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_appearance(dtype):
    """Within the limits; masks and points stay; the same seed gives the same image."""
    image = np.full((40, 50, 3), 100, dtype)
    image[:, 25:] = 140
    means, contrasts = [], []
    for seed in range(40):
        np.random.seed(seed)
        transform = RandomAppearance(0.2, 0.4, 0.0, 0.0).get_transform(image)
        result = transform.apply_image(image)
        assert result.dtype == dtype and np.array_equal(transform.apply_segmentation(image), image)
        means.append(result.mean() / 120)
        contrasts.append(np.ptp(result.astype(float)) / 40)
        np.random.seed(seed)
        assert np.array_equal(RandomAppearance(0.2, 0.4, 0.0, 0.0).get_transform(image).apply_image(image), result)
    assert 0.75 < min(means) < 0.85 and 1.15 < max(means) < 1.25
    assert min(contrasts) < 0.7 and max(contrasts) > 1.3
    np.random.seed(0)
    noisy = RandomAppearance(0.0, 0.0, 2.0, 0.1).get_transform(image).apply_image(image)
    assert noisy.dtype == dtype and noisy.shape == image.shape
    assert noisy[:, :15].std() > 0.5 and abs(noisy.mean() - 120) < 2


def test_they_are_built_from_the_config():
    assert build_augmentations(config()) == []
    kinds = [type(one) for one in build_augmentations(config(DIHEDRAL=True, BLUR=1.0))]
    assert kinds == [RandomDihedral, RandomAppearance] and all(issubclass(kind, T.Augmentation) for kind in kinds)
    with pytest.raises(InputError, match="INPUT.AUGMENTATION.CONTRAST is 1.5, expected from 0 to below 1"):
        build_augmentations(config(CONTRAST=1.5))
