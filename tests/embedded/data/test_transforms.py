"""Augmentations and the resize transform, compared with direct computation."""

import tellapart  # noqa: F401

import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import Image


@pytest.fixture
def image():
    return np.random.RandomState(0).randint(0, 256, (40, 64, 3), dtype=np.uint8)


def test_resize_uses_pil(image):
    tfm = T.ResizeTransform(40, 64, 23, 31)
    expected = np.asarray(Image.fromarray(image).resize((31, 23), Image.BILINEAR))
    np.testing.assert_array_equal(tfm.apply_image(image), expected)
    np.testing.assert_array_equal(tfm.apply_image(image[:, :, :1])[:, :, 0], tfm.apply_image(image[:, :, 0]))
    assert tfm.apply_image(image.astype(np.float32)).shape == (23, 31, 3)


def test_resize_of_labels_keeps_labels(image):
    labels = np.where(np.arange(64) < 30, 3, 200).astype(np.uint8)[None].repeat(40, 0)
    assert set(np.unique(T.ResizeTransform(40, 64, 97, 31).apply_segmentation(labels))) == {3, 200}


def test_resize_of_points_and_its_inverse():
    tfm = T.ResizeTransform(40, 64, 20, 96)
    points = np.array([[0.0, 0.0], [64.0, 40.0], [10.0, 11.0]])
    there = tfm.apply_coords(points.copy())
    np.testing.assert_allclose(there, [[0, 0], [96, 20], [15, 5.5]])
    np.testing.assert_allclose(tfm.inverse().apply_coords(there), points)


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [((100, 160), 40, 200, (40, 64)), ((100, 160), 80, 100, (63, 100)), ((3, 1000), 800, 1333, (4, 1333))],
)
def test_shortest_edge(size, short, longest, expected):
    assert T.ResizeShortestEdge.get_output_shape(*size, short, longest) == expected


def test_shortest_edge_lengths(image):
    np.random.seed(0)
    ranged = {T.ResizeShortestEdge([20, 23], 1000, "range").get_transform(image).new_h for _ in range(80)}
    chosen = {T.ResizeShortestEdge([20, 23], 1000, "choice").get_transform(image).new_h for _ in range(80)}
    assert (ranged, chosen) == ({20, 21, 22, 23}, {20, 23})
    assert isinstance(T.ResizeShortestEdge([0], 1000, "choice").get_transform(image), T.NoOpTransform)


def test_flip_of_image_boxes_and_labels(image):
    boxes = np.array([[2.0, 3.0, 10.0, 20.0]])
    for vertical in (False, True):
        given = T.AugInput(image.copy(), boxes=boxes.copy(), sem_seg=image[:, :, 0].copy())
        T.RandomFlip(prob=1.0, horizontal=not vertical, vertical=vertical)(given)
        flipped = image[::-1] if vertical else image[:, ::-1]
        np.testing.assert_array_equal(given.image, flipped)
        np.testing.assert_array_equal(given.sem_seg, flipped[:, :, 0])
        np.testing.assert_allclose(given.boxes, [[2, 20, 10, 37]] if vertical else [[54, 3, 62, 20]])


def test_flip_probability(image):
    np.random.seed(0)
    drawn = [type(T.RandomFlip(prob=0.25).get_transform(image)) for _ in range(400)]
    assert 70 < drawn.count(T.HFlipTransform) < 130
    with pytest.raises(ValueError):
        T.RandomFlip(horizontal=True, vertical=True)


@pytest.mark.parametrize(
    ("kind", "size", "heights", "widths"),
    [
        ("relative", (0.5, 0.25), (20, 20), (16, 16)),
        ("relative_range", (0.5, 0.25), (20, 40), (16, 64)),
        ("absolute", (30, 100), (30, 30), (64, 64)),
        ("absolute_range", (10, 50), (10, 40), (10, 50)),
    ],
)
def test_crop_sizes_and_positions(kind, size, heights, widths, image):
    np.random.seed(0)
    corners = set()
    for _ in range(60):
        tfm = T.RandomCrop(kind, size).get_transform(image)
        assert heights[0] <= tfm.h <= heights[1] and widths[0] <= tfm.w <= widths[1]
        assert 0 <= tfm.x0 <= 64 - tfm.w and 0 <= tfm.y0 <= 40 - tfm.h
        np.testing.assert_array_equal(tfm.apply_image(image), image[tfm.y0 : tfm.y0 + tfm.h, tfm.x0 : tfm.x0 + tfm.w])
        corners.add((tfm.x0, tfm.y0))
    assert len(corners) > 5


def test_list_applies_in_order(image):
    given = T.AugInput(image)
    resize = T.ResizeTransform(40, 64, 20, 32)
    tfms = T.AugmentationList([resize, T.HFlipTransform(32), T.CropTransform(4, 2, 20, 10)])(given)
    assert given.image.shape == (10, 20, 3) and len(tfms) == 3
    np.testing.assert_allclose(tfms.apply_coords(np.array([[0.0, 10.0]])), [[32 - 4, 5 - 2]])


def test_augmentation_receives_the_attributes_it_names(image):
    class CropToLabels(T.Augmentation):
        def get_transform(self, image, sem_seg):
            return T.CropTransform(0, 0, int(sem_seg.max()), image.shape[0])

    given = T.AugInput(image, sem_seg=np.full((40, 64), 7, np.uint8))
    CropToLabels()(given)
    assert given.image.shape == (40, 7, 3)

    class NeedsDepth(T.Augmentation):
        def get_transform(self, image, depth):
            return T.NoOpTransform()

    with pytest.raises(AttributeError, match="'depth'"):
        NeedsDepth()(given)


def test_repr_shows_arguments_other_than_the_defaults():
    assert str([T.ResizeShortestEdge((8,), 9, "choice"), T.RandomFlip()]) == (
        "[ResizeShortestEdge(short_edge_length=(8,), max_size=9, sample_style='choice'), RandomFlip()]"
    )
