"""Mask voting, compared with a slow NMS and a loop over the voters of each box; ties, borders, empty inputs."""

from __future__ import annotations

import math

import tellapart.fcis.mask_voting as module
from tellapart.fcis.mask_voting import MaskVoting, vote

import numpy as np
import pytest
import torch
from torch.nn import functional as F

CLOSE = 2e-5  # a number closer than this to its threshold may pass or not


def iou(a, b):
    """IoU of float32 boxes, in float32: at the NMS threshold rounding decides."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return np.float32(0)
    intersection = width * height
    return intersection / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection)


def slow_paste(mask, box, height, width):
    """The probabilities in the image: the mask resized to the whole pixels of its box, and -1 outside of it."""
    x0, y0 = min(max(round(box[0]), 0), width - 1), min(max(round(box[1]), 0), height - 1)
    x1, y1 = max(min(round(box[2]), width), x0 + 1), max(min(round(box[3]), height), y0 + 1)
    image = np.full((height, width), -1.0)
    resized = F.interpolate(mask[None, None].double(), (y1 - y0, x1 - x0), mode="bilinear", align_corners=False)
    image[y0:y1, x0:x1] = resized[0, 0].numpy()
    return image


def slow_nms(boxes, class_probs, score_thresh, nms_thresh, max_detections):
    """The kept (candidate, category) by falling score, ties by candidate, then by category; and all IoUs."""
    overlaps = np.array([[iou(a, b) for b in boxes] for a in boxes])
    pairs = [(-s, r, c) for (r, c), s in np.ndenumerate(class_probs) if s > score_thresh]
    kept = []
    for _, candidate, category in sorted(pairs):
        if not any(c == category and overlaps[candidate, r] > nms_thresh for r, c in kept):
            kept.append((candidate, category))
    return kept[:max_detections] if max_detections >= 0 else kept, overlaps


def slow_voting(boxes, class_probs, mask_probs, image_size, options):
    """For each detection (score, category, pixels that must be foreground, pixels that may be foreground)."""
    height, width = image_size
    finite = [r for r in range(len(boxes)) if torch.isfinite(boxes[r]).all() and torch.isfinite(class_probs[r]).all()]
    class_probs, mask_probs = class_probs[finite].numpy(), mask_probs[finite]
    boxes = boxes[finite].numpy().clip(0, np.float32([width, height, width, height]))
    kept, overlaps = slow_nms(boxes, class_probs, options.score_thresh, options.nms_thresh, options.max_detections)
    pasted, detections = {}, []
    for candidate, category in kept:
        voters = [r for r in range(len(boxes)) if r == candidate or overlaps[candidate, r] >= options.vote_iou]
        total = sum(float(class_probs[r, category]) for r in voters)
        bounds = []
        for margin in (CLOSE, -CLOSE):
            average = np.zeros((height, width))
            for r in voters:
                if r not in pasted:
                    pasted[r] = slow_paste(mask_probs[r], boxes[r].tolist(), height, width)
                average += (pasted[r] >= options.mask_thresh + margin) * (float(class_probs[r, category]) / total)
            bounds.append(average >= options.mask_thresh + margin)
        detections.append((float(class_probs[candidate, category]), category, *bounds))
    return detections


def slow_tight_box(mask):
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def check_voting(boxes, class_probs, mask_probs, image_size, **options):
    """Compare with slow_voting, except where rounding decides; return the instances."""
    voting = MaskVoting(**options)
    detections = voting(boxes, class_probs, mask_probs, image_size)
    expected = slow_voting(boxes, class_probs, mask_probs, image_size, voting)
    assert all(certain.any() == possible.any() for _, _, certain, possible in expected)
    expected = [instance for instance in expected if instance[2].any()]
    assert detections.image_size == image_size
    assert detections.pred_masks.shape == (len(expected), *image_size) and detections.pred_masks.dtype == torch.bool
    scores = detections.scores.tolist()
    assert scores == [score for score, *_ in expected] == sorted(scores, reverse=True)
    assert detections.pred_classes.dtype == torch.int64
    assert detections.pred_classes.tolist() == [category for _, category, *_ in expected]
    num_uncertain = 0
    masks, boxes = detections.pred_masks.numpy(), detections.pred_boxes.tensor.tolist()
    for mask, box, (_, _, certain, possible) in zip(masks, boxes, expected):
        assert (mask >= certain).all() and (mask <= possible).all()
        assert box == slow_tight_box(mask)
        num_uncertain += (certain != possible).sum()
    assert num_uncertain <= 1e-3 * detections.pred_masks.sum()
    return detections


def random_candidates(count, categories, image_size, clusters, m=7, seed=0):
    """Clusters of boxes with smooth masks.

    Corners are multiples of 1/8 pixel, which stay exact in float32 when NMS adds an offset per category.
    """
    rng, (height, width) = np.random.default_rng(seed), image_size
    centers = rng.uniform(0, 1, (clusters, 2)) * (width, height)
    sides = rng.uniform(0.1, 0.6, (clusters, 2)) * (width, height)
    which = rng.integers(clusters, size=count)
    middle = centers[which] + rng.normal(0, 0.08, (count, 2)) * sides[which]
    half = sides[which] * rng.uniform(0.8, 1.2, (count, 2)) / 2
    boxes = np.round(np.concatenate([middle - half, middle + half], 1) * 8) / 8
    class_probs = rng.dirichlet(np.full(categories + 1, 0.05), count)[:, :-1]
    mask_probs = F.interpolate(torch.from_numpy(rng.uniform(-0.3, 1.3, (count, 1, 3, 3))), (m, m), mode="bicubic")
    return torch.tensor(boxes).float(), torch.tensor(class_probs).float(), mask_probs[:, 0].clamp(0, 1).float()


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
def test_voting_equals_the_loop_over_voters(count, categories, image_size, options):
    candidates = random_candidates(count, categories, image_size, clusters=8, m=21 if count == 600 else 7)
    detections = check_voting(*candidates, image_size, **options)
    assert len(detections) > 0


@pytest.mark.parametrize("side", [1, 7, 60, 1000])
def test_result_does_not_depend_on_the_tile_size(monkeypatch, side):
    candidates = random_candidates(50, 4, (61, 47), clusters=5)
    whole = MaskVoting()(*candidates, (61, 47))
    monkeypatch.setattr(module, "_TILE_CPU", side)
    tiled = MaskVoting()(*candidates, (61, 47))
    assert torch.equal(tiled.pred_masks, whole.pred_masks) and torch.equal(tiled.scores, whole.scores)
    assert torch.equal(tiled.pred_boxes.tensor, whole.pred_boxes.tensor)


@pytest.mark.parametrize("levels", [1, 3])
def test_equal_scores_keep_the_order_of_the_candidates(levels):
    """All scores are equal, or have three values; no average of equal votes is close to the threshold."""
    boxes, class_probs, mask_probs = random_candidates(80, 3, (50, 60), clusters=6, seed=1)
    tied = (class_probs * levels).ceil() / levels * 0.9
    for limit in (-1, 5):
        options = {"score_thresh": 0.05, "mask_thresh": 0.4123, "max_detections": limit}
        check_voting(boxes, tied, mask_probs, (50, 60), **options)


def test_no_detections():
    boxes, class_probs, mask_probs = random_candidates(20, 3, (30, 40), clusters=3)
    for detections in (
        MaskVoting()(boxes[:0], class_probs[:0], mask_probs[:0], (30, 40)),
        MaskVoting(max_detections=0)(boxes, class_probs, mask_probs, (30, 40)),
        # a score must be above the threshold
        MaskVoting(score_thresh=0.5)(boxes, class_probs.clamp(max=0.5), mask_probs, (30, 40)),
        MaskVoting()(boxes, class_probs, mask_probs.clamp(max=0.39), (30, 40)),
        MaskVoting()(boxes * math.nan, class_probs, mask_probs, (30, 40)),
    ):
        assert len(detections) == 0 and detections.image_size == (30, 40)
        assert detections.pred_masks.shape == (0, 30, 40) and detections.pred_masks.dtype == torch.bool
        assert detections.pred_boxes.tensor.shape == (0, 4) and detections.pred_classes.dtype == torch.int64


def test_single_candidate():
    """The left cell is 1, the right one 0, so the 6 columns of the box are 1, 1, 2/3, 1/3, 0, 0."""
    mask = torch.tensor([[[1.0, 0.0]]]).expand(1, 2, 2)
    box = torch.tensor([[2.0, 1.0, 8.0, 4.0]])
    detections = MaskVoting()(box, torch.tensor([[0.01, 0.7]]), mask, (5, 10))
    assert detections.scores.tolist() == pytest.approx([0.7, 0.01]) and detections.pred_classes.tolist() == [1, 0]
    assert detections.pred_boxes.tensor.tolist() == [[2, 1, 5, 4]] * 2
    assert detections.pred_masks.sum((1, 2)).tolist() == [9, 9]


def test_empty_masks_are_dropped_and_others_stay():
    boxes = torch.tensor([[0.0, 0, 4, 4], [5, 5, 9, 9], [10, 0, 14, 4]])
    mask_probs = torch.stack([torch.zeros(3, 3), torch.ones(3, 3), torch.full((3, 3), 0.3)])
    detections = MaskVoting()(boxes, torch.tensor([[0.9], [0.5], [0.7]]), mask_probs, (12, 15))
    assert detections.scores.tolist() == [0.5] and detections.pred_boxes.tensor.tolist() == [[5, 5, 9, 9]]


@pytest.mark.parametrize("size", [(4, 3), (400, 300)])
def test_a_mask_at_the_threshold_is_foreground(size):
    height, width = size
    box = torch.tensor([[0.0, 0.0, width, height]])
    assert vote(torch.full((1, 21, 21), 0.4), box, torch.ones(1, 1), size, 0.4).all()
    assert not vote(torch.full((1, 21, 21), 0.3999), box, torch.ones(1, 1), size, 0.4).any()


@pytest.mark.parametrize("image_size", [(3, 4), (6, 7), (40, 50)])
@pytest.mark.parametrize("voters", [5, 50, 300, 530, 580, 600])
def test_an_average_at_the_threshold_is_foreground(voters, image_size):
    """Two of five equal votes are 0.4; one vote fewer is not enough."""
    boxes, class_probs = torch.tensor([[0.0, 0, 4, 3]]).expand(voters, 4), torch.full((voters, 1), 0.1)
    mask_probs = torch.zeros(voters, 2, 2)
    mask_probs[: 2 * voters // 5] = 1
    detections = MaskVoting()(boxes, class_probs, mask_probs, image_size)
    assert detections.pred_boxes.tensor.tolist() == [[0, 0, 4, 3]] and detections.pred_masks.sum() == 12
    mask_probs[0] = 0
    assert len(MaskVoting()(boxes, class_probs, mask_probs, image_size)) == 0


def test_votes_are_counted_in_full_precision_under_autocast():
    """Two of five equal votes: in bfloat16 their sum would be below the threshold."""
    boxes, class_probs = torch.tensor([[0.0, 0, 4, 3]]).expand(300, 4), torch.full((300, 1), 0.1)
    mask_probs = torch.zeros(300, 2, 2)
    mask_probs[:120] = 1
    others = random_candidates(60, 3, (40, 50), clusters=5)
    whole = MaskVoting()(*others, (40, 50))
    with torch.autocast("cpu", torch.bfloat16):
        assert MaskVoting()(boxes, class_probs, mask_probs, (6, 7)).pred_masks.sum() == 12
        assert torch.equal(MaskVoting()(*others, (40, 50)).pred_masks, whole.pred_masks)


def test_votes_are_weighted_by_the_score_of_the_category():
    """Two equal boxes with different masks: the left half gets 2/3, 1/6 and 0.6 of the votes in three categories."""
    boxes = torch.tensor([[0.0, 0, 8, 4], [0, 0, 8, 4]])
    mask_probs = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, None].expand(2, 2, 2)
    class_probs = torch.tensor([[0.6, 0.1, 0.3], [0.3, 0.5, 0.2001]])
    detections = MaskVoting()(boxes, class_probs, mask_probs, (4, 8))
    assert detections.pred_classes.tolist() == [0, 1, 2]
    assert detections.pred_boxes.tensor.tolist() == [[0, 0, 4, 4], [4, 0, 8, 4], [0, 0, 8, 4]]


@pytest.mark.parametrize(("right", "foreground"), [(4.0, 0), (3.875, 32)])
def test_candidates_vote_from_the_iou_threshold(right, foreground):
    """A candidate with IoU 0.5 votes, one with less does not. Its score is too low for a detection of its own."""
    boxes = torch.tensor([[0.0, 0, 8, 4], [0, 0, right, 4]])
    mask_probs = torch.stack([torch.ones(2, 2), torch.zeros(2, 2)])
    detections = MaskVoting(score_thresh=0.3, mask_thresh=0.6)(boxes, torch.tensor([[0.31], [0.3]]), mask_probs, (5, 9))
    assert detections.pred_masks.sum() == foreground


def test_boxes_at_and_beyond_the_borders():
    boxes = [
        [-5, -4, 6, 7], [10, 8, 40, 30], [-20, 2, -3, 8], [25, 2, 60, 8], [3, -9, 9, -1], [3, 17, 9, 30],
        [0, 0, 20, 16], [19.6, 15.6, 20, 16], [4, 4, 4, 4], [7, 3, 7, 12], [20, 16, 20, 16], [0, 0, 0, 0],
        [2.5, 3.5, 2.75, 3.625], [-1e6, -1e6, 1e6, 1e6], [0.5, 1.5, 10.5, 11.5],
    ]  # fmt: skip
    class_probs = torch.linspace(0.9, 0.2, len(boxes))[:, None]
    mask_probs = random_candidates(len(boxes), 1, (16, 20), clusters=2)[2].clamp(min=0.3)
    mask_probs[:, 3] = 1
    detections = check_voting(torch.tensor(boxes).float(), class_probs, mask_probs, (16, 20), nms_thresh=1.0)
    assert len(detections) == len(boxes)
    tight = detections.pred_boxes.tensor
    assert tight.min() == 0 and tight[:, 2].max() == 20 and tight[:, 3].max() == 16


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_candidates_that_are_not_finite_are_ignored(bad):
    boxes, class_probs, mask_probs = random_candidates(30, 3, (40, 50), clusters=3)
    boxes[3, 2], class_probs[7, 1], boxes[20] = bad, bad, bad
    good = [r for r in range(30) if r not in (3, 7, 20)]
    detections = check_voting(boxes, class_probs, mask_probs, (40, 50))
    expected = MaskVoting()(boxes[good], class_probs[good], mask_probs[good], (40, 50))
    assert torch.equal(detections.pred_masks, expected.pred_masks)


def test_arguments_are_not_changed():
    boxes, class_probs, mask_probs = random_candidates(30, 3, (40, 50), clusters=3)
    before = [x.clone() for x in (boxes - 20, class_probs, mask_probs)]
    given = [x.clone() for x in before]
    MaskVoting()(*given, (40, 50))
    assert all(torch.equal(a, b) for a, b in zip(before, given))
