"""The synthetic objects: masks, and the variety of sizes, numbers and appearances."""

import tellapart  # noqa: F401
from tellapart.data.synthetic import OBJECTS
from tellapart.data.synthetic.objects import SIZE, draw_objects

import numpy as np
import pytest
from scipy import ndimage


@pytest.fixture(scope="module")
def drawn():
    return [draw_objects(3, i) for i in range(60)]


def test_masks_are_visible_parts(drawn):
    for image, objects in drawn:
        assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8
        masks = np.stack([mask for _, mask in objects])
        assert masks.sum(0).max() == 1 and masks.sum((1, 2)).min() >= 20
        assert {category for category, _ in objects} == {0}


def test_images_differ_in_what_they_show(drawn):
    numbers = np.array([len(objects) for _, objects in drawn])
    sides = np.array([np.sqrt(np.median([mask.sum() for _, mask in objects])) for _, objects in drawn])
    assert numbers.min() <= 3 and numbers.max() >= 60
    assert sides.min() < 10 and sides.max() > 40
    is_gray = np.array([np.ptp(image.astype(int), axis=2).max() == 0 for image, _ in drawn])
    assert 0.3 < is_gray.mean() < 0.9
    differences = []  # objects minus background, in gray levels
    for image, objects in drawn:
        inside = np.any([mask for _, mask in objects], axis=0)
        gray = image.mean(2)
        differences.append(gray[inside].mean() - gray[~inside].mean())
    assert np.mean(np.array(differences) > 10) > 0.3 and np.mean(np.array(differences) < -10) > 0.15


def test_most_objects_touch_another(drawn):
    touching = []
    for _, objects in drawn:
        anything = np.zeros((SIZE, SIZE), int)
        for _, mask in objects:
            anything += mask
        for _, mask in objects:
            touching.append((ndimage.binary_dilation(mask) & (anything > 0) & ~mask).any())
    assert 0.4 < np.mean(touching) < 0.95


def test_an_image_depends_on_seed_and_index():
    for seed, index in ((3, 5), (OBJECTS.splits["val"][0], 0)):
        (first, objects), (second, others) = draw_objects(seed, index), draw_objects(seed, index)
        assert np.array_equal(first, second) and len(objects) == len(others)
        assert not np.array_equal(first, draw_objects(seed, index + 1)[0])
