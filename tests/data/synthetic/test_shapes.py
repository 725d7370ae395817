"""The synthetic shapes differ only in their shape."""

import math

import tellapart  # noqa: F401
from tellapart.data.synthetic import shapes

import numpy as np
import pytest


@pytest.fixture(scope="module")
def drawn():
    return [shapes.draw_shapes(7, i) for i in range(40)]


def test_every_image_has_touching_objects_of_one_class(drawn):
    for _, objects in drawn:
        assert 4 <= len(objects) <= 9
        touching = 0
        for i, (category, mask) in enumerate(objects):
            grown = mask.copy()
            grown[1:] |= mask[:-1]
            grown[:-1] |= mask[1:]
            grown[:, 1:] |= mask[:, :-1]
            grown[:, :-1] |= mask[:, 1:]
            touching += sum(category == other and (grown & rest).any() for other, rest in objects[i + 1 :])
        assert touching


def test_masks_are_visible_parts(drawn):
    for _, objects in drawn:
        masks = np.stack([mask for _, mask in objects])
        assert masks.sum(axis=0).max() == 1
        assert masks.sum(axis=(1, 2)).min() >= 40


def test_almost_hidden_objects_are_not_drawn():
    color = np.zeros(3)
    for offset, kept in ((0, 1), (19, 1), (20, 2)):  # 0%, 17% and 22% of the small disc are seen
        behind = shapes._Shape(0, 64.0 + offset, 64.0, 10.0, 0.0, color)
        before = shapes._Shape(0, 64.0, 64.0, 25.0, 0.0, color)
        left, distances, owner = shapes._drop_occluded([behind, before])
        assert len(left) == len(distances) == kept and left[-1] is before
        assert set(np.unique(owner)) == {-1, *range(kept)}


def test_area_and_color_say_nothing_about_the_class(drawn):
    area, color = {0: [], 1: [], 2: []}, {0: [], 1: [], 2: []}
    for image, objects in drawn:
        for category, mask in objects:
            area[category].append(mask.sum())
            color[category].append(image[mask].mean(axis=0))
    for values in (area, color):
        means = np.array([np.mean(values[c], axis=0) for c in values])
        errors = np.array([np.std(values[c], axis=0) / math.sqrt(len(values[c])) for c in values])
        assert (np.abs(means - means.mean(axis=0)) < 4 * errors).all()


def test_outlines_are_discs_squares_and_triangles():
    """The full area equals the disc's for every class; the extent follows the formula of the shape."""
    color = np.zeros(3)
    extents = {0: 40.0, 1: math.sqrt(math.pi) * 20, 2: math.sqrt(math.pi * 400 / (3 * math.sqrt(3))) * 3}
    for category, extent in extents.items():
        turned = shapes._Shape(category, 64.0, 64.0, 20.0, 0.3, color).distance() < 0
        assert turned.sum() == pytest.approx(math.pi * 400, rel=0.01)
        mask = shapes._Shape(category, 64.0, 64.0, 20.0, 0.0, color).distance() < 0
        assert np.ptp(np.flatnonzero(mask.any(axis=0))) + 1 == pytest.approx(extent, abs=1.5)
