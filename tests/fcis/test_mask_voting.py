"""Mask voting against NMS by hand and a loop over the voters of each box; ties, borders, nothing to do."""

from __future__ import annotations

import math

import tellapart.fcis.mask_voting as module
from tellapart.fcis.mask_voting import MaskVoting, tight_boxes, vote

import numpy as np
import pytest
import torch
from torch.nn import functional as F

CLOSE = 2e-5  # a number this near its threshold may fall on either side


def iou(a, b):
    """Of float32 boxes, in float32: at a threshold its last bit decides."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return np.float32(0)
    both = wide * high
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def slow_pasted(mask, box, height, width):
    """The probabilities in the image: the mask resized to the whole pixels of its box, -1 around it."""
    x0, y0 = min(max(round(box[0]), 0), width - 1), min(max(round(box[1]), 0), height - 1)
    x1, y1 = max(min(round(box[2]), width), x0 + 1), max(min(round(box[3]), height), y0 + 1)
    image = np.full((height, width), -1.0)
    resized = F.interpolate(mask[None, None].double(), (y1 - y0, x1 - x0), mode="bilinear", align_corners=False)
    image[y0:y1, x0:x1] = resized[0, 0].numpy()
    return image


def slow_kept(boxes, scores, score_thresh, nms_thresh, most):
    """(candidate, category) by falling score, ties in the order of the candidates, then of the categories."""
    overlaps = np.array([[iou(a, b) for b in boxes] for a in boxes])
    pairs = [(-s, r, c) for (r, c), s in np.ndenumerate(scores) if s > score_thresh]
    kept = []
    for _, candidate, category in sorted(pairs):
        if not any(c == category and overlaps[candidate, r] > nms_thresh for r, c in kept):
            kept.append((candidate, category))
    return kept[:most] if most >= 0 else kept, overlaps


def slow_voting(boxes, scores, masks, image_size, options):
    """[(score, category, pixels surely foreground, pixels possibly foreground)] of each instance that is kept."""
    height, width = image_size
    finite = [r for r in range(len(boxes)) if torch.isfinite(boxes[r]).all() and torch.isfinite(scores[r]).all()]
    scores, masks = scores[finite].numpy(), masks[finite]
    boxes = boxes[finite].numpy().clip(0, np.float32([width, height, width, height]))
    kept, overlaps = slow_kept(boxes, scores, options.score_thresh, options.nms_thresh, options.max_detections)
    pasted, found = {}, []
    for candidate, category in kept:
        voters = [r for r in range(len(boxes)) if r == candidate or overlaps[candidate, r] >= options.vote_iou]
        total = sum(float(scores[r, category]) for r in voters)
        both = []
        for side in (CLOSE, -CLOSE):
            share = np.zeros((height, width))
            for r in voters:
                if r not in pasted:
                    pasted[r] = slow_pasted(masks[r], boxes[r].tolist(), height, width)
                share += (pasted[r] >= options.mask_thresh + side) * (float(scores[r, category]) / total)
            both.append(share >= options.mask_thresh + side)
        found.append((float(scores[candidate, category]), category, *both))
    return found


def slow_tight(mask):
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def assert_as_slow(boxes, scores, masks, image_size, **options):
    """The whole call is the slow one; what is not sure may differ. Gives the instances."""
    voting = MaskVoting(**options)
    found = voting(boxes, scores, masks, image_size)
    wanted = slow_voting(boxes, scores, masks, image_size, voting)
    assert all(sure.any() == possible.any() for _, _, sure, possible in wanted)
    wanted = [instance for instance in wanted if instance[2].any()]
    assert found.image_size == image_size
    assert found.pred_masks.shape == (len(wanted), *image_size) and found.pred_masks.dtype == torch.bool
    assert found.scores.tolist() == [score for score, *_ in wanted] == sorted(found.scores.tolist(), reverse=True)
    assert found.pred_classes.dtype == torch.int64
    assert found.pred_classes.tolist() == [category for _, category, *_ in wanted]
    unsure = 0
    for mask, box, (_, _, sure, possible) in zip(found.pred_masks.numpy(), found.pred_boxes.tensor.tolist(), wanted):
        assert (mask >= sure).all() and (mask <= possible).all()
        assert box == slow_tight(mask)
        unsure += (sure != possible).sum()
    assert unsure <= 1e-3 * found.pred_masks.sum()
    return found


def random_candidates(count, categories, image_size, clusters, m=7, seed=0):
    """Boxes in clusters, corners at eighths of a pixel (exact in float32 whatever NMS adds to them), smooth masks."""
    rng, (height, width) = np.random.default_rng(seed), image_size
    centres = rng.uniform(0, 1, (clusters, 2)) * (width, height)
    sides = rng.uniform(0.1, 0.6, (clusters, 2)) * (width, height)
    which = rng.integers(clusters, size=count)
    middle = centres[which] + rng.normal(0, 0.08, (count, 2)) * sides[which]
    half = sides[which] * rng.uniform(0.8, 1.2, (count, 2)) / 2
    boxes = np.round(np.concatenate([middle - half, middle + half], 1) * 8) / 8
    scores = rng.dirichlet(np.full(categories + 1, 0.05), count)[:, :-1]
    masks = F.interpolate(torch.from_numpy(rng.uniform(-0.3, 1.3, (count, 1, 3, 3))), (m, m), mode="bicubic")
    return torch.tensor(boxes).float(), torch.tensor(scores).float(), masks[:, 0].clamp(0, 1).float()


@pytest.mark.parametrize(
    ("count", "categories", "image_size", "options"),
    [
        (600, 80, (120, 160), {}),
        (60, 3, (90, 40), {"max_detections": -1, "score_thresh": 0.2}),
        (60, 3, (40, 90), {"nms_thresh": 0.7, "vote_iou": 0.3, "max_detections": 7}),
        (40, 2, (9, 11), {"mask_thresh": 0.6, "vote_iou": 0.8}),
        (30, 2, (1, 1), {}),
        (30, 2, (1, 50), {"max_detections": -1}),
    ],
)
def test_voting_is_the_loop_over_voters(count, categories, image_size, options):
    candidates = random_candidates(count, categories, image_size, clusters=8, m=21 if count == 600 else 7)
    found = assert_as_slow(*candidates, image_size, **options)
    assert len(found) > 0


@pytest.mark.parametrize("side", [1, 7, 60, 1000])
def test_tiles_are_the_whole(monkeypatch, side):
    candidates = random_candidates(50, 4, (61, 47), clusters=5)
    whole = MaskVoting()(*candidates, (61, 47))
    monkeypatch.setattr(module, "_TILE", side)
    tiled = MaskVoting()(*candidates, (61, 47))
    assert torch.equal(tiled.pred_masks, whole.pred_masks) and torch.equal(tiled.scores, whole.scores)
    assert torch.equal(tiled.pred_boxes.tensor, whole.pred_boxes.tensor)


@pytest.mark.parametrize("levels", [1, 3])
def test_order_of_equal_scores_is_that_of_the_candidates(levels):
    """All scores the same, or few of them; no share of equal votes is near the threshold."""
    boxes, scores, masks = random_candidates(80, 3, (50, 60), clusters=6, seed=1)
    tied = (scores * levels).ceil() / levels * 0.9
    for most in (-1, 5):
        assert_as_slow(boxes, tied, masks, (50, 60), score_thresh=0.05, mask_thresh=0.4123, max_detections=most)


def test_nothing_found():
    boxes, scores, masks = random_candidates(20, 3, (30, 40), clusters=3)
    for found in (
        MaskVoting()(boxes[:0], scores[:0], masks[:0], (30, 40)),
        MaskVoting(max_detections=0)(boxes, scores, masks, (30, 40)),
        MaskVoting(score_thresh=0.5)(boxes, scores.clamp(max=0.5), masks, (30, 40)),  # above, not at
        MaskVoting()(boxes, scores, masks.clamp(max=0.39), (30, 40)),
        MaskVoting()(boxes * math.nan, scores, masks, (30, 40)),
    ):
        assert len(found) == 0 and found.image_size == (30, 40)
        assert found.pred_masks.shape == (0, 30, 40) and found.pred_masks.dtype == torch.bool
        assert found.pred_boxes.tensor.shape == (0, 4) and found.pred_classes.dtype == torch.int64


def test_single_candidate():
    """Left half of a box 6 wide: cells at 1 and 0, so pixels at 1, 1, 2/3 (place 1/3), 1/3, 0, 0."""
    mask = torch.tensor([[[1.0, 0.0]]]).expand(1, 2, 2)
    box = torch.tensor([[2.0, 1.0, 8.0, 4.0]])
    found = MaskVoting()(box, torch.tensor([[0.01, 0.7]]), mask, (5, 10))
    assert found.scores.tolist() == pytest.approx([0.7, 0.01]) and found.pred_classes.tolist() == [1, 0]
    assert found.pred_boxes.tensor.tolist() == [[2, 1, 5, 4]] * 2
    assert found.pred_masks.sum((1, 2)).tolist() == [9, 9]


def test_empty_masks_are_dropped_and_others_stay():
    boxes = torch.tensor([[0.0, 0, 4, 4], [5, 5, 9, 9], [10, 0, 14, 4]])
    masks = torch.stack([torch.zeros(3, 3), torch.ones(3, 3), torch.full((3, 3), 0.3)])
    found = MaskVoting()(boxes, torch.tensor([[0.9], [0.5], [0.7]]), masks, (12, 15))
    assert found.scores.tolist() == [0.5] and found.pred_boxes.tensor.tolist() == [[5, 5, 9, 9]]


@pytest.mark.parametrize("size", [(4, 3), (400, 300)])
def test_a_mask_at_the_threshold_is_foreground(size):
    height, width = size
    box = torch.tensor([[0.0, 0.0, width, height]])
    assert vote(torch.full((1, 21, 21), 0.4), box, torch.ones(1, 1), size, 0.4).all()
    assert not vote(torch.full((1, 21, 21), 0.3999), box, torch.ones(1, 1), size, 0.4).any()


@pytest.mark.parametrize("image_size", [(3, 4), (6, 7), (40, 50)])
@pytest.mark.parametrize("voters", [5, 50, 300, 530, 580, 600])
def test_an_average_at_the_threshold_is_foreground(voters, image_size):
    """Two of five equal votes; one vote fewer isn't enough."""
    boxes, scores = torch.tensor([[0.0, 0, 4, 3]]).expand(voters, 4), torch.full((voters, 1), 0.1)
    masks = torch.zeros(voters, 2, 2)
    masks[: 2 * voters // 5] = 1
    found = MaskVoting()(boxes, scores, masks, image_size)
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 4, 3]] and found.pred_masks.sum() == 12
    masks[0] = 0
    assert len(MaskVoting()(boxes, scores, masks, image_size)) == 0


def test_votes_are_counted_in_full_precision_under_autocast():
    """Two of five equal votes again: in bfloat16 they would not reach the threshold."""
    boxes, scores = torch.tensor([[0.0, 0, 4, 3]]).expand(300, 4), torch.full((300, 1), 0.1)
    masks = torch.zeros(300, 2, 2)
    masks[:120] = 1
    others = random_candidates(60, 3, (40, 50), clusters=5)
    whole = MaskVoting()(*others, (40, 50))
    with torch.autocast("cpu", torch.bfloat16):
        assert MaskVoting()(boxes, scores, masks, (6, 7)).pred_masks.sum() == 12
        assert torch.equal(MaskVoting()(*others, (40, 50)).pred_masks, whole.pred_masks)


def test_voters_weigh_by_the_score_of_the_category():
    """The same two boxes, categories that trust one mask each, or both: shares of the left half 2/3, 1/6, 0.6."""
    boxes = torch.tensor([[0.0, 0, 8, 4], [0, 0, 8, 4]])
    masks = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, None].expand(2, 2, 2)
    scores = torch.tensor([[0.6, 0.1, 0.3], [0.3, 0.5, 0.2001]])
    found = MaskVoting()(boxes, scores, masks, (4, 8))
    assert found.pred_classes.tolist() == [0, 1, 2]
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 4, 4], [4, 0, 8, 4], [0, 0, 8, 4]]


@pytest.mark.parametrize(("right", "foreground"), [(4.0, 0), (3.875, 32)])
def test_iou_at_the_threshold_votes(right, foreground):
    """Half of the kept box votes against it, a little less doesn't; a score too low to be kept votes."""
    boxes = torch.tensor([[0.0, 0, 8, 4], [0, 0, right, 4]])
    masks = torch.stack([torch.ones(2, 2), torch.zeros(2, 2)])
    found = MaskVoting(score_thresh=0.3, mask_thresh=0.6)(boxes, torch.tensor([[0.31], [0.3]]), masks, (5, 9))
    assert found.pred_masks.sum() == foreground


def test_boxes_at_and_beyond_the_borders():
    boxes = [
        [-5, -4, 6, 7], [10, 8, 40, 30], [-20, 2, -3, 8], [25, 2, 60, 8], [3, -9, 9, -1], [3, 17, 9, 30],
        [0, 0, 20, 16], [19.6, 15.6, 20, 16], [4, 4, 4, 4], [7, 3, 7, 12], [20, 16, 20, 16], [0, 0, 0, 0],
        [2.5, 3.5, 2.75, 3.625], [-1e6, -1e6, 1e6, 1e6], [0.5, 1.5, 10.5, 11.5],
    ]  # fmt: skip
    scores = torch.linspace(0.9, 0.2, len(boxes))[:, None]
    masks = random_candidates(len(boxes), 1, (16, 20), clusters=2)[2].clamp(min=0.3)
    masks[:, 3] = 1
    found = assert_as_slow(torch.tensor(boxes).float(), scores, masks, (16, 20), nms_thresh=1.0)
    assert len(found) == len(boxes)
    tight = found.pred_boxes.tensor
    assert tight.min() == 0 and tight[:, 2].max() == 20 and tight[:, 3].max() == 16


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_candidates_that_are_not_finite_are_ignored(bad):
    boxes, scores, masks = random_candidates(30, 3, (40, 50), clusters=3)
    boxes[3, 2], scores[7, 1], boxes[20] = bad, bad, bad
    good = [r for r in range(30) if r not in (3, 7, 20)]
    found = assert_as_slow(boxes, scores, masks, (40, 50))
    assert torch.equal(found.pred_masks, MaskVoting()(boxes[good], scores[good], masks[good], (40, 50)).pred_masks)


def test_arguments_stay_as_they_were():
    boxes, scores, masks = random_candidates(30, 3, (40, 50), clusters=3)
    before = [x.clone() for x in (boxes - 20, scores, masks)]
    given = [x.clone() for x in before]
    MaskVoting()(*given, (40, 50))
    assert all(torch.equal(a, b) for a, b in zip(before, given))


def test_tight_boxes():
    masks = torch.zeros(4, 5, 7, dtype=torch.bool)
    masks[0, 2, 3] = masks[2, 0, 6] = masks[2, 4, 1] = True
    masks[3] = True
    assert tight_boxes(masks).tensor.tolist() == [[3, 2, 4, 3], [0, 0, 0, 0], [1, 0, 7, 5], [0, 0, 7, 5]]
    assert tight_boxes(masks[:0]).tensor.shape == (0, 4)
