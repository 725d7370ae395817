"""Mask targets on grids, compared with cell areas, and tight boxes."""

from __future__ import annotations

import math

import tellapart.masks as module
from tellapart.masks import mask_targets, tight_boxes

import numpy as np
import pytest
import shapely
import torch
from detectron2.structures import BitMasks, PolygonMasks


def overlap(low, high, pixel):
    """The length of the interval from low to high that is within the pixel."""
    return max(0.0, min(high, pixel + 1) - max(low, pixel))


def slow_coverage(mask, box, m):
    """The fraction of each of the m x m cells of a box that a bitmap covers."""
    x0, y0, x1, y1 = box
    xs = [x0 + (x1 - x0) * j / m for j in range(m + 1)]
    ys = [y0 + (y1 - y0) * i / m for i in range(m + 1)]
    area = (x1 - x0) * (y1 - y0) / (m * m)
    coverage = np.zeros((m, m))
    for i in range(m):
        for j in range(m):
            for v in range(math.floor(ys[i]), math.ceil(ys[i + 1])):
                for u in range(math.floor(xs[j]), math.ceil(xs[j + 1])):
                    if 0 <= v < mask.shape[0] and 0 <= u < mask.shape[1] and mask[v, u]:
                        coverage[i, j] += overlap(xs[j], xs[j + 1], u) * overlap(ys[i], ys[i + 1], v) / area
    return coverage


def polygon_coverage(polygons, box, m):
    """The fraction of each of the m x m cells of a box that polygons (flat arrays x0 y0 x1 y1 ...) cover."""
    shape = shapely.union_all([shapely.Polygon(p.reshape(-1, 2)) for p in polygons])
    (x0, y0), w, h = box[:2], (box[2] - box[0]) / m, (box[3] - box[1]) / m
    cells = [[shapely.box(x0 + j * w, y0 + i * h, x0 + (j + 1) * w, y0 + (i + 1) * h) for j in range(m)]
             for i in range(m)]  # fmt: skip
    return np.array([[shape.intersection(cell).area / (w * h) for cell in row] for row in cells])


def blob(x, y, rx, ry, corners=40):
    """An ellipse as a polygon, a flat array."""
    angles = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], 1).reshape(-1)


BLOBS = [[blob(30, 25, 20, 14)], [blob(45, 40, 12.3, 17.8)], [blob(14.5, 15.2, 9, 8), blob(40, 30, 10, 16)]]
BOXES = [[8.0, 9, 52, 41], [27.3, 20.1, 60.9, 63.2], [2.5, 4.25, 55.5, 47.75]]


def check_targets(threshold, got, coverage, margin):
    """Compare with the coverage in all cells, except the few where it is close to the threshold."""
    certain = np.abs(coverage - threshold) > margin
    assert certain.mean() > 0.85 and (coverage[certain] > threshold).any() and (coverage[certain] < threshold).any()
    np.testing.assert_array_equal(got[certain], coverage[certain] >= threshold)


@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.6])
@pytest.mark.parametrize("cell", [1, 2, 5])
def test_targets_of_whole_pixel_cells_are_exact(cell, threshold):
    """Noise masks, in boxes whose cells are whole pixels. 10 of 25 pixels reach the threshold of 0.4."""
    m, rng = 7, np.random.default_rng(cell)
    masks = rng.random((4, 50, 60)) < threshold
    corners = rng.integers(0, 50 - m * cell, (4, 2))
    boxes = np.concatenate([corners, corners + m * cell], 1)
    boxes[0, 2] += m  # cells that are not square
    got = mask_targets(BitMasks(torch.from_numpy(masks)), torch.tensor(boxes).float(), m, threshold)
    coverage = np.stack([slow_coverage(mask, box, m) for mask, box in zip(masks, boxes)])
    assert got.dtype == torch.bool and got.shape == (4, m, m) and got.any() and not got.all()
    np.testing.assert_array_equal(got.numpy(), coverage >= threshold - 1e-9)


@pytest.mark.parametrize("threshold", [0.4, 0.7])
@pytest.mark.parametrize("m", [7, 21])
def test_targets_of_bit_masks_are_thresholded_coverage(m, threshold):
    masks = BitMasks.from_polygon_masks(BLOBS, 70, 80)
    got = mask_targets(masks, torch.tensor(BOXES), m, threshold)
    coverage = np.stack([slow_coverage(mask.numpy(), box, m) for mask, box in zip(masks.tensor, BOXES)])
    check_targets(threshold, got.numpy(), coverage, 0.05)


@pytest.mark.parametrize("threshold", [0.4, 0.7])
@pytest.mark.parametrize("m", [7, 21])
def test_targets_of_polygons_are_thresholded_coverage(m, threshold):
    got = mask_targets(PolygonMasks(BLOBS), torch.tensor(BOXES), m, threshold)
    assert got.dtype == torch.bool and got.shape == (3, m, m)
    coverage = np.stack([polygon_coverage(polygons, box, m) for polygons, box in zip(BLOBS, BOXES)])
    check_targets(threshold, got.numpy(), coverage, 0.1)


def test_targets_of_a_rectangle_that_cuts_cells():
    """Cells of 4 x 4 pixels. The rectangle covers 0, 1/2, 1, 1/4 of the columns and 3/4, 1, 1, 0 of the rows."""
    rectangle = np.array([6.0, 1, 13, 1, 13, 12, 6, 12])
    bits = BitMasks.from_polygon_masks([[rectangle]], 16, 16)
    box = torch.tensor([[0.0, 0, 16, 16]])
    for threshold, expected in ((0.375, [[0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0] * 4]),
                              (0.4, [[0, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0] * 4]),
                              (0.8, [[0] * 4, [0, 0, 1, 0], [0, 0, 1, 0], [0] * 4])):  # fmt: skip
        for masks in (PolygonMasks([[rectangle]]), bits):
            assert mask_targets(masks, box, 4, threshold).int().tolist() == [expected]


@pytest.mark.parametrize("m", [7, 21])
def test_polygons_and_bit_masks_nearly_agree(m):
    polygons = mask_targets(PolygonMasks(BLOBS), torch.tensor(BOXES), m, 0.4)
    bits = mask_targets(BitMasks.from_polygon_masks(BLOBS, 70, 80), torch.tensor(BOXES), m, 0.4)
    assert 0.2 < polygons.float().mean() < 0.8
    assert (polygons == bits).float().mean() > 0.95


def test_targets_without_masks_and_beside_the_mask():
    for masks in (PolygonMasks([]), BitMasks(torch.zeros(0, 20, 30))):
        empty = mask_targets(masks, torch.zeros(0, 4), 7, 0.4)
        assert empty.shape == (0, 7, 7) and empty.dtype == torch.bool
    for masks in (PolygonMasks(BLOBS[:1]), BitMasks.from_polygon_masks(BLOBS[:1], 70, 80)):
        assert not mask_targets(masks, torch.tensor([[55.0, 50, 75, 69]]), 7, 0.4).any()
        assert mask_targets(masks, torch.tensor([[25.0, 20, 35, 30]]), 7, 0.4).all()
        assert mask_targets(masks, torch.tensor([[30.0, 25, 30, 25]]), 7, 0.4).shape == (1, 7, 7)  # a box without area


def test_masks_are_converted_to_float_in_chunks(monkeypatch):
    """OHEM computes the targets of hundreds of regions, whose masks would need gigabytes as float32."""
    counts = []

    class CountingROIAlign(module.ROIAlign):
        def forward(self, masks, boxes):
            counts.append(len(masks))
            return super().forward(masks, boxes)

    masks = torch.rand(70, 9, 12, generator=torch.Generator().manual_seed(0)) > 0.5
    boxes = torch.tensor([[1.0, 2, 10, 8]]).expand(70, 4) + torch.arange(70)[:, None] / 50
    one_by_one = torch.cat([module.crop_masks(masks[i : i + 1], boxes[i : i + 1], 3) for i in range(70)])
    monkeypatch.setattr(module, "ROIAlign", CountingROIAlign)
    assert torch.equal(module.crop_masks(masks, boxes, 3), one_by_one)
    assert sum(counts) == 70 and max(counts) <= 32


def test_tight_boxes():
    masks = torch.zeros(4, 5, 7, dtype=torch.bool)
    masks[0, 2, 3] = masks[2, 0, 6] = masks[2, 4, 1] = True
    masks[3] = True
    assert tight_boxes(masks).tensor.tolist() == [[3, 2, 4, 3], [0, 0, 0, 0], [1, 0, 7, 5], [0, 0, 7, 5]]
    assert tight_boxes(masks[:0]).tensor.shape == (0, 4)
