"""Mask targets against areas worked out cell by cell, losses against their formulas, the hardest regions by sorting."""

from __future__ import annotations

import math

import tellapart.masks as module
from tellapart.fcis.losses import hardest, mask_targets, region_losses, region_targets

import numpy as np
import pytest
import shapely
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks


def overlap(low, high, pixel):
    """Length of low..high within pixel..pixel + 1."""
    return max(0.0, min(high, pixel + 1) - max(low, pixel))


def slow_shares(mask, box, m):
    """The share of each of the m x m cells of a box that a bitmap covers."""
    x0, y0, x1, y1 = box
    xs = [x0 + (x1 - x0) * j / m for j in range(m + 1)]
    ys = [y0 + (y1 - y0) * i / m for i in range(m + 1)]
    area = (x1 - x0) * (y1 - y0) / (m * m)
    shares = np.zeros((m, m))
    for i in range(m):
        for j in range(m):
            for v in range(math.floor(ys[i]), math.ceil(ys[i + 1])):
                for u in range(math.floor(xs[j]), math.ceil(xs[j + 1])):
                    if 0 <= v < mask.shape[0] and 0 <= u < mask.shape[1] and mask[v, u]:
                        shares[i, j] += overlap(xs[j], xs[j + 1], u) * overlap(ys[i], ys[i + 1], v) / area
    return shares


def polygon_shares(polygons, box, m):
    """The same of polygons, each a flat array x0 y0 x1 y1 ..."""
    shape = shapely.union_all([shapely.Polygon(p.reshape(-1, 2)) for p in polygons])
    (x0, y0), w, h = box[:2], (box[2] - box[0]) / m, (box[3] - box[1]) / m
    cells = [[shapely.box(x0 + j * w, y0 + i * h, x0 + (j + 1) * w, y0 + (i + 1) * h) for j in range(m)]
             for i in range(m)]  # fmt: skip
    return np.array([[shape.intersection(cell).area / (w * h) for cell in row] for row in cells])


def blob(x, y, rx, ry, corners=40):
    """An ellipse as a flat polygon."""
    angles = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], 1).reshape(-1)


BLOBS = [[blob(30, 25, 20, 14)], [blob(45, 40, 12.3, 17.8)], [blob(14.5, 15.2, 9, 8), blob(40, 30, 10, 16)]]
NEAR = [[8.0, 9, 52, 41], [27.3, 20.1, 60.9, 63.2], [2.5, 4.25, 55.5, 47.75]]


def assert_away_from(threshold, got, shares, margin):
    """As the shares say where they are not near the threshold, which is nearly everywhere."""
    sure = np.abs(shares - threshold) > margin
    assert sure.mean() > 0.85 and (shares[sure] > threshold).any() and (shares[sure] < threshold).any()
    np.testing.assert_array_equal(got[sure], shares[sure] >= threshold)


@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.6])
@pytest.mark.parametrize("cell", [1, 2, 5])
def test_targets_of_whole_pixel_cells_are_exact(cell, threshold):
    """Noise, in boxes whose cells are whole pixels; 10 of 25 are the threshold of 0.4 and count."""
    m, rng = 7, np.random.default_rng(cell)
    masks = rng.random((4, 50, 60)) < threshold
    corners = rng.integers(0, 50 - m * cell, (4, 2))
    boxes = np.concatenate([corners, corners + m * cell], 1)
    boxes[0, 2] += m  # cells that are not square
    got = mask_targets(BitMasks(torch.from_numpy(masks)), torch.tensor(boxes).float(), m, threshold)
    shares = np.stack([slow_shares(mask, box, m) for mask, box in zip(masks, boxes)])
    assert got.dtype == torch.bool and got.shape == (4, m, m) and got.any() and not got.all()
    np.testing.assert_array_equal(got.numpy(), shares >= threshold - 1e-9)


@pytest.mark.parametrize("threshold", [0.4, 0.7])
@pytest.mark.parametrize("m", [7, 21])
def test_targets_of_bit_masks_are_shares_of_cells(m, threshold):
    masks = BitMasks.from_polygon_masks(BLOBS, 70, 80)
    got = mask_targets(masks, torch.tensor(NEAR), m, threshold)
    shares = np.stack([slow_shares(mask.numpy(), box, m) for mask, box in zip(masks.tensor, NEAR)])
    assert_away_from(threshold, got.numpy(), shares, 0.05)


@pytest.mark.parametrize("threshold", [0.4, 0.7])
@pytest.mark.parametrize("m", [7, 21])
def test_targets_of_polygons_are_shares_of_cells(m, threshold):
    got = mask_targets(PolygonMasks(BLOBS), torch.tensor(NEAR), m, threshold)
    assert got.dtype == torch.bool and got.shape == (3, m, m)
    shares = np.stack([polygon_shares(polygons, box, m) for polygons, box in zip(BLOBS, NEAR)])
    assert_away_from(threshold, got.numpy(), shares, 0.1)


def test_targets_of_a_rectangle_that_cuts_cells():
    """Cells of 4 x 4 pixels; the columns are covered by 0, 1/2, 1, 1/4, the rows by 3/4, 1, 1, 0."""
    rectangle = np.array([6.0, 1, 13, 1, 13, 12, 6, 12])
    bits = BitMasks.from_polygon_masks([[rectangle]], 16, 16)
    box = torch.tensor([[0.0, 0, 16, 16]])
    for threshold, wanted in ((0.375, [[0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0] * 4]),
                              (0.4, [[0, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0] * 4]),
                              (0.8, [[0] * 4, [0, 0, 1, 0], [0, 0, 1, 0], [0] * 4])):  # fmt: skip
        for masks in (PolygonMasks([[rectangle]]), bits):
            assert mask_targets(masks, box, 4, threshold).int().tolist() == [wanted]


@pytest.mark.parametrize("m", [7, 21])
def test_polygons_and_bit_masks_nearly_agree(m):
    polygons = mask_targets(PolygonMasks(BLOBS), torch.tensor(NEAR), m, 0.4)
    bits = mask_targets(BitMasks.from_polygon_masks(BLOBS, 70, 80), torch.tensor(NEAR), m, 0.4)
    assert 0.2 < polygons.float().mean() < 0.8
    assert (polygons == bits).float().mean() > 0.95


def test_targets_of_nothing_and_of_what_lies_elsewhere():
    for masks in (PolygonMasks([]), BitMasks(torch.zeros(0, 20, 30))):
        nothing = mask_targets(masks, torch.zeros(0, 4), 7, 0.4)
        assert nothing.shape == (0, 7, 7) and nothing.dtype == torch.bool
    for masks in (PolygonMasks(BLOBS[:1]), BitMasks.from_polygon_masks(BLOBS[:1], 70, 80)):
        assert not mask_targets(masks, torch.tensor([[55.0, 50, 75, 69]]), 7, 0.4).any()
        assert mask_targets(masks, torch.tensor([[25.0, 20, 35, 30]]), 7, 0.4).all()
        assert mask_targets(masks, torch.tensor([[30.0, 25, 30, 25]]), 7, 0.4).shape == (1, 7, 7)  # without area


def region_inputs(regions=9, classes=4, m=5, seed=0, background=False):
    """Arguments of region_losses in float64; both sides' scores instead of their difference."""
    g = torch.Generator().manual_seed(seed)
    gt_classes = torch.randint(classes, (regions,), generator=g)
    gt_classes[::3] = classes
    if background:
        gt_classes[:] = classes
    foreground = gt_classes < classes
    count = int(foreground.sum())

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    class_logits, sides, deltas = 3 * normal(regions, classes + 1), 3 * normal(count, 2, m, m), normal(regions, 4)
    gt_masks = torch.rand(count, m, m, generator=g) < 0.4
    return class_logits, sides, deltas, gt_classes, foreground, gt_masks, normal(count, 4)


def slow_softmax(scores, index):
    return math.exp(scores[index]) / sum(math.exp(s) for s in scores)


def slow_smooth_l1(distance, beta):
    return 0.5 * distance**2 / beta if abs(distance) < beta else abs(distance) - 0.5 * beta


def slow_region_losses(class_logits, sides, deltas, gt_classes, foreground, gt_masks, gt_deltas, beta):
    """(R, 3), out of the formulas: the two-way softmax is over (outside, inside)."""
    rows, p, m = [], 0, gt_masks.shape[1]
    for r, logits in enumerate(class_logits.tolist()):
        cls, seg, box = -math.log(slow_softmax(logits, gt_classes[r])), 0.0, 0.0
        if foreground[r]:
            for i in range(m):
                for j in range(m):
                    seg -= math.log(slow_softmax(sides[p, :, i, j].tolist(), int(gt_masks[p, i, j]))) / (m * m)
            box = sum(slow_smooth_l1(a - b, beta) for a, b in zip(deltas[r].tolist(), gt_deltas[p].tolist()))
            p += 1
        rows.append((cls, seg, box))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("beta", [1.0, 1 / 9, 0.0])
def test_losses_are_their_formulas(beta, dtype):
    class_logits, sides, deltas, gt_classes, foreground, gt_masks, gt_deltas = region_inputs()
    numbers = [x.to(dtype) for x in (class_logits, sides[:, 1] - sides[:, 0], deltas)]
    got = region_losses(*numbers, gt_classes, foreground, gt_masks, gt_deltas.to(dtype), beta)
    wanted = slow_region_losses(class_logits, sides, deltas, gt_classes, foreground, gt_masks, gt_deltas, beta)
    assert all(x.dtype == dtype for x in got)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(torch.stack(got, 1).double(), wanted, rtol=tolerance, atol=tolerance)
    assert (wanted[foreground] > 0).all() and (wanted[~foreground, 1:] == 0).all() and (~foreground).any()


@pytest.mark.parametrize("beta", [1.0, 1 / 9, 0.0])
def test_gradient_of_the_losses(beta):
    class_logits, sides, deltas, *given = region_inputs(regions=5, m=2)
    numbers = [x.requires_grad_() for x in (class_logits, sides[:, 1] - sides[:, 0], deltas)]
    assert torch.autograd.gradcheck(lambda *x: tuple(region_losses(*x, *given, beta)), numbers)


def test_losses_without_foreground():
    class_logits, sides, deltas, *given = region_inputs(background=True)
    numbers = [x.requires_grad_() for x in (class_logits, sides[:, 1] - sides[:, 0], deltas)]
    got = region_losses(*numbers, *given, 1.0)
    assert (got.cls > 0).all() and got.seg.tolist() == got.box.tolist() == [0.0] * 9
    sum(x.sum() for x in got).backward()
    assert class_logits.grad.any() and not deltas.grad.any()


def test_losses_of_no_regions():
    class_logits, sides, *given = (x[:0] for x in region_inputs())
    nothing = region_losses(class_logits, sides[:, 1] - sides[:, 0], *given, 1.0)
    assert [tuple(x.shape) for x in nothing] == [(0,)] * 3


def test_sure_mistakes_cost_their_scores():
    """Differences of 1e4: neither infinite nor cut off."""
    logits, sides = torch.tensor([[-1e4, 0.0]]), torch.full((1, 2, 2), -1e4)
    given = torch.tensor([0]), torch.tensor([True]), torch.ones(1, 2, 2, dtype=torch.bool), torch.zeros(1, 4)
    losses = region_losses(logits, sides, torch.full((1, 4), 1e4), *given, 1.0)
    assert [x.item() for x in losses] == [1e4, 1e4, 4e4 - 2]


@pytest.mark.parametrize("keep", [0, 1, 4, 100])
def test_hardest_is_per_image(keep):
    counts = [7, 0, 3, 12]
    losses = torch.randn(sum(counts), generator=torch.Generator().manual_seed(0)) + torch.arange(sum(counts))
    chosen = hardest(losses, counts, keep)
    wanted, start = set(), 0
    for count in counts:
        image = range(start, start + count)
        wanted |= set(sorted(image, key=lambda r: -losses[r])[:keep])
        start += count
    assert chosen.dtype == torch.bool and chosen.shape == losses.shape
    assert set(chosen.nonzero().flatten().tolist()) == wanted and len(wanted) == sum(min(keep, c) for c in counts)


def labelled(classes, **fields):
    image = Instances((70, 80), gt_classes=torch.tensor(classes, dtype=torch.int64), **fields)
    image.proposal_boxes = Boxes(torch.tensor(NEAR)[: len(classes)])
    return image


def test_region_targets_of_several_images():
    """Background, ignored and no proposals; an image without objects has no masks at all."""
    masks = BitMasks.from_polygon_masks(BLOBS, 70, 80)
    truth = {"gt_masks": masks, "gt_boxes": Boxes(torch.tensor(NEAR) + 1)}
    images = [labelled([4, 4]), labelled([1, 4, 0], **truth), labelled([]), labelled([-1, 3, 4], **truth)]
    foreground, targets, boxes = region_targets(images, 4, 7, 0.4)
    assert foreground.int().tolist() == [0, 0, 1, 0, 1, 0, 1, 0]
    assert boxes.tolist() == (torch.tensor(NEAR)[[0, 2, 1]] + 1).tolist()
    assert torch.equal(targets, mask_targets(masks, torch.tensor(NEAR), 7, 0.4)[[0, 2, 1]])
    chosen = torch.tensor([1, 0, 0, 1, 1, 1, 1, 0]).bool()
    some = region_targets([p[c] for p, c in zip(images, chosen.split([2, 3, 0, 3]))], 4, 7, 0.4)
    assert len(some.masks) == 2
    assert all(torch.equal(*pair) for pair in zip(some, region_targets(images, 4, 7, 0.4).of(chosen)))
    foreground, targets, boxes = region_targets(images[:1], 4, 7, 0.4)
    assert not foreground.any() and targets.shape == (0, 7, 7) and boxes.shape == (0, 4)


def test_few_masks_are_numbers_at_once(monkeypatch):
    """Mining may learn from hundreds of regions: all their masks as float32 at once would be gigabytes."""
    counts = []

    class Counting(module.ROIAlign):
        def forward(self, masks, boxes):
            counts.append(len(masks))
            return super().forward(masks, boxes)

    masks = torch.rand(70, 9, 12, generator=torch.Generator().manual_seed(0)) > 0.5
    boxes = torch.tensor([[1.0, 2, 10, 8]]).expand(70, 4) + torch.arange(70)[:, None] / 50
    one_by_one = torch.cat([module.crop_masks(masks[i : i + 1], boxes[i : i + 1], 3) for i in range(70)])
    monkeypatch.setattr(module, "ROIAlign", Counting)
    assert torch.equal(module.crop_masks(masks, boxes, 3), one_by_one)
    assert sum(counts) == 70 and max(counts) <= 32
