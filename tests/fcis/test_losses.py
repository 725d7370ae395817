"""FCIS's losses, hard region selection and region targets, compared with formulas, sorting and mask_targets."""

from __future__ import annotations

import math

from tellapart.fcis.losses import region_losses, region_targets, select_hard_regions
from tellapart.masks import mask_targets

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

# three objects in an image of 70 x 80 pixels: diamonds, and boxes around them
DIAMONDS = [[30.0, 11, 50, 25, 30, 39, 10, 25], [45.0, 22, 57, 40, 45, 58, 33, 40], [40.0, 14, 50, 30, 40, 46, 30, 30]]
BOXES = [[8.0, 9, 52, 41], [27.3, 20.1, 60.9, 63.2], [2.5, 4.25, 55.5, 47.75]]


def region_inputs(regions=9, classes=4, m=5, seed=0, background=False):
    """The arguments of region_losses in float64, but with the scores of both sides instead of mask_logits."""
    g = torch.Generator().manual_seed(seed)
    gt_classes = torch.randint(classes, (regions,), generator=g)
    gt_classes[::3] = classes
    if background:
        gt_classes[:] = classes
    foreground_index = (gt_classes < classes).nonzero().flatten()
    count = len(foreground_index)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    class_logits, side_scores, deltas = 3 * normal(regions, classes + 1), 3 * normal(count, 2, m, m), normal(regions, 4)
    gt_masks = torch.rand(count, m, m, generator=g) < 0.4
    return class_logits, side_scores, deltas, gt_classes, foreground_index, gt_masks, normal(count, 4)


def slow_softmax(scores, index):
    return math.exp(scores[index]) / sum(math.exp(s) for s in scores)


def slow_smooth_l1(distance, beta):
    return 0.5 * distance**2 / beta if abs(distance) < beta else abs(distance) - 0.5 * beta


def slow_region_losses(class_logits, side_scores, deltas, gt_classes, foreground_index, gt_masks, gt_deltas, beta):
    """(R, 3), from the formulas, with the softmax over (outside, inside)."""
    rows, p, m = [], 0, gt_masks.shape[1]
    for r, logits in enumerate(class_logits.tolist()):
        cls, seg, box = -math.log(slow_softmax(logits, gt_classes[r])), 0.0, 0.0
        if r in foreground_index.tolist():
            for i in range(m):
                for j in range(m):
                    seg -= math.log(slow_softmax(side_scores[p, :, i, j].tolist(), int(gt_masks[p, i, j]))) / (m * m)
            box = sum(slow_smooth_l1(a - b, beta) for a, b in zip(deltas[r].tolist(), gt_deltas[p].tolist()))
            p += 1
        rows.append((cls, seg, box))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("beta", [1.0, 1 / 9, 0.0])
def test_losses_equal_their_formulas(beta, dtype):
    class_logits, side_scores, deltas, gt_classes, foreground_index, gt_masks, gt_deltas = region_inputs()
    numbers = [x.to(dtype) for x in (class_logits, side_scores[:, 1] - side_scores[:, 0], deltas)]
    got = region_losses(*numbers, gt_classes, foreground_index, gt_masks, gt_deltas.to(dtype), beta)
    expected = slow_region_losses(*region_inputs(), beta)
    assert all(x.dtype == dtype for x in got)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(torch.stack(got, 1).double(), expected, rtol=tolerance, atol=tolerance)
    foreground = torch.isin(torch.arange(len(expected)), foreground_index)
    assert (expected[foreground] > 0).all() and (expected[~foreground, 1:] == 0).all() and (~foreground).any()


@pytest.mark.parametrize("beta", [1.0, 1 / 9, 0.0])
def test_gradient_of_the_losses(beta):
    class_logits, side_scores, deltas, *given = region_inputs(regions=5, m=2)
    numbers = [x.requires_grad_() for x in (class_logits, side_scores[:, 1] - side_scores[:, 0], deltas)]
    assert torch.autograd.gradcheck(lambda *x: tuple(region_losses(*x, *given, beta)), numbers)


def test_losses_without_foreground():
    class_logits, side_scores, deltas, *given = region_inputs(background=True)
    numbers = [x.requires_grad_() for x in (class_logits, side_scores[:, 1] - side_scores[:, 0], deltas)]
    got = region_losses(*numbers, *given, 1.0)
    assert (got.class_loss > 0).all() and got.mask_loss.tolist() == got.box_loss.tolist() == [0.0] * 9
    sum(x.sum() for x in got).backward()
    assert class_logits.grad.any() and not deltas.grad.any()


def test_losses_without_regions():
    class_logits, side_scores, *given = (x[:0] for x in region_inputs())
    losses = region_losses(class_logits, side_scores[:, 1] - side_scores[:, 0], *given, 1.0)
    assert [tuple(x.shape) for x in losses] == [(0,)] * 3


def test_losses_of_extreme_logits_are_exact():
    """Logits of 1e4 for the wrong answer: the loss is neither infinite nor clipped."""
    logits, side_scores = torch.tensor([[-1e4, 0.0]]), torch.full((1, 2, 2), -1e4)
    given = torch.tensor([0]), torch.tensor([0]), torch.ones(1, 2, 2, dtype=torch.bool), torch.zeros(1, 4)
    losses = region_losses(logits, side_scores, torch.full((1, 4), 1e4), *given, 1.0)
    assert [x.item() for x in losses] == [1e4, 1e4, 4e4 - 2]


@pytest.mark.parametrize("max_per_image", [0, 1, 4, 100])
def test_hard_regions_are_selected_per_image(max_per_image):
    counts = [7, 0, 3, 12]
    losses = torch.randn(sum(counts), generator=torch.Generator().manual_seed(0)) + torch.arange(sum(counts))
    selected = select_hard_regions(losses, counts, max_per_image)
    expected, start = set(), 0
    for count in counts:
        image = range(start, start + count)
        expected |= set(sorted(image, key=lambda r: -losses[r])[:max_per_image])
        start += count
    assert all(index.tolist() == sorted(index.tolist()) for index in selected)
    starts = [sum(counts[:i]) for i in range(len(counts))]
    assert {first + int(r) for first, index in zip(starts, selected) for r in index} == expected
    assert len(expected) == sum(min(max_per_image, count) for count in counts)


def labeled_proposals(classes, **fields):
    image = Instances((70, 80), gt_classes=torch.tensor(classes, dtype=torch.int64), **fields)
    image.proposal_boxes = Boxes(torch.tensor(BOXES)[: len(classes)])
    return image


def test_region_targets_of_several_images():
    """Background, ignored and no proposals. The proposals of an image without objects have no gt_masks."""
    masks = BitMasks.from_polygon_masks([[np.array(polygon)] for polygon in DIAMONDS], 70, 80)
    gt = {"gt_masks": masks, "gt_boxes": Boxes(torch.tensor(BOXES) + 1)}
    with_objects = [labeled_proposals(classes, **gt) for classes in ([1, 4, 0], [-1, 3, 4])]
    images = [labeled_proposals([4, 4]), with_objects[0], labeled_proposals([]), with_objects[1]]
    foreground_index, targets, boxes = region_targets(images, 4, 7, 0.4)
    assert foreground_index.tolist() == [2, 4, 6]
    assert boxes.tolist() == (torch.tensor(BOXES)[[0, 2, 1]] + 1).tolist()
    assert torch.equal(targets, mask_targets(masks, torch.tensor(BOXES), 7, 0.4)[[0, 2, 1]])
    selected = torch.tensor([1, 0, 0, 1, 1, 1, 1, 0]).bool()
    selected_targets = region_targets([p[c] for p, c in zip(images, selected.split([2, 3, 0, 3]))], 4, 7, 0.4)
    assert len(selected_targets.gt_masks) == 2
    assert all(
        torch.equal(*pair)
        for pair in zip(selected_targets, region_targets(images, 4, 7, 0.4).select(selected.nonzero()[:, 0]))
    )
    foreground_index, targets, boxes = region_targets(images[:1], 4, 7, 0.4)
    assert not len(foreground_index) and targets.shape == (0, 7, 7) and boxes.shape == (0, 4)
