"""Match detected instances with true ones, and measure how well they agree: F1, PQ, AJI, counts.

All functions take pairs of overlapping masks and their IoU, so masks of one image may overlap each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from ..data.annotations import mask_areas

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10).round(2)
_IN_CROWD = 0.5  # share of a detection in a crowd region, from which it is no false positive


@dataclass
class MaskPairs:
    """The masks of one image and category that overlap.

    Attributes:
        scores: float (D,), of the detections.
        areas: float (D,), pixels of the detections.
        in_crowd: bool (D,), whether a detection lies mainly in a crowd region.
        gt_areas: float (G,), pixels of the true instances, without crowds.
        det_index, gt_index: int (P,), the pairs whose masks have a pixel in common.
        iou: float (P,), of the pairs.
    """

    scores: np.ndarray
    areas: np.ndarray
    in_crowd: np.ndarray
    gt_areas: np.ndarray
    det_index: np.ndarray
    gt_index: np.ndarray
    iou: np.ndarray

    @classmethod
    def from_rles(cls, rles: list[dict], scores: np.ndarray, gt_rles: list[dict], crowds: list[dict]) -> MaskPairs:
        """Compare masks, given as RLE of pycocotools.

        Args:
            rles: D detections.
            scores: (D,).
            gt_rles: G true instances.
            crowds: crowd regions.
        """
        iou = np.zeros((len(rles), len(gt_rles)))
        if rles and gt_rles:
            iou = coco_mask.iou(rles, gt_rles, [0] * len(gt_rles))
        in_crowd = np.zeros(len(rles), bool)
        if rles and crowds:
            in_crowd = coco_mask.iou(rles, crowds, [1] * len(crowds)).max(1) >= _IN_CROWD
        pairs = np.nonzero(iou)
        areas, gt_areas = (mask_areas(one).astype(float) for one in (rles, gt_rles))
        return cls(np.asarray(scores, dtype=np.float64), areas, in_crowd, gt_areas, *pairs, iou[pairs])

    def above(self, threshold: float) -> MaskPairs:
        """Return the pairs of the detections whose score is at least ``threshold``."""
        kept = self.scores >= threshold
        new_index = np.cumsum(kept) - 1
        pairs = kept[self.det_index]
        return MaskPairs(
            self.scores[kept], self.areas[kept], self.in_crowd[kept], self.gt_areas, new_index[self.det_index[pairs]],
            self.gt_index[pairs], self.iou[pairs],
        )  # fmt: skip


def match(pairs: MaskPairs, iou_threshold: float) -> np.ndarray:
    """Match detections and true instances one to one.

    The matching has as many pairs with at least the given IoU as possible and, of those, the largest sum of IoU.

    Returns:
        int (M,), the positions of the matched pairs in ``pairs.iou``.
    """
    valid = np.flatnonzero(pairs.iou >= iou_threshold)
    det, gt = pairs.det_index[valid], pairs.gt_index[valid]
    det_count = np.bincount(det, minlength=len(pairs.scores))
    gt_count = np.bincount(gt, minlength=len(pairs.gt_areas))
    is_unique = (det_count[det] == 1) & (gt_count[gt] == 1)
    matched = valid[is_unique]
    rest = valid[~is_unique]
    if not len(rest):
        return matched
    rows, row_index = np.unique(pairs.det_index[rest], return_inverse=True)
    columns, column_index = np.unique(pairs.gt_index[rest], return_inverse=True)
    benefit = np.zeros((len(rows), len(columns)))
    # One more pair is worth more than any sum of IoU.
    benefit[row_index, column_index] = 1.0 + pairs.iou[rest] / (2.0 * min(benefit.shape))
    position = np.full(benefit.shape, -1)
    position[row_index, column_index] = rest
    chosen = position[linear_sum_assignment(benefit, maximize=True)]
    return np.sort(np.concatenate((matched, chosen[chosen >= 0])))


@dataclass
class Counts:
    """What the measures of a data set are computed from; the sum over its images and categories.

    Attributes:
        tp, fp, fn: float (10,), at :data:`IOU_THRESHOLDS`.
        iou_sum: float (10,), of the matched pairs.
        num_detected, num_true: instances.
        aji_intersection, aji_union: pixels, see :func:`aggregated_jaccard`.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    iou_sum: np.ndarray
    num_detected: int
    num_true: int
    aji_intersection: float
    aji_union: float

    @classmethod
    def of(cls, pairs: MaskPairs) -> Counts:
        """Count the matches of one image and category."""
        matches = [match(pairs, threshold) for threshold in IOU_THRESHOLDS]
        tp = np.array([len(matched) for matched in matches], dtype=float)
        ignored = np.array([_num_ignored(pairs, matched) for matched in matches], dtype=float)
        iou_sum = np.array([pairs.iou[matched].sum() for matched in matches])
        num_detected = len(pairs.scores) - ignored[0]
        return cls(
            tp, len(pairs.scores) - ignored - tp, len(pairs.gt_areas) - tp, iou_sum, int(num_detected),
            len(pairs.gt_areas), *aggregated_jaccard(pairs),
        )  # fmt: skip

    def vector(self) -> np.ndarray:
        """Return tp, fp, fn and iou_sum as one array, (40,)."""
        return np.concatenate((self.tp, self.fp, self.fn, self.iou_sum))

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in vars(self)))


def _num_ignored(pairs: MaskPairs, matched: np.ndarray) -> int:
    unmatched = np.ones(len(pairs.scores), bool)
    unmatched[pairs.det_index[matched]] = False
    return int((unmatched & pairs.in_crowd).sum())


def aggregated_jaccard(pairs: MaskPairs) -> tuple[float, float]:
    """Compute intersection and union of the aggregated Jaccard index (AJI; Kumar et al., 2017).

    Each true instance, in their order, takes the detection of highest IoU that no other has taken. Their intersection
    and union are added up; a true instance without one adds its area to the union, as does a detection that no true
    instance has taken, unless it lies in a crowd region.

    Returns:
        Pixels of the intersection and of the union.
    """
    taken = np.zeros(len(pairs.scores), bool)
    intersection = union = 0.0
    order = np.lexsort((-pairs.iou, pairs.gt_index))
    starts = np.searchsorted(pairs.gt_index[order], np.arange(len(pairs.gt_areas) + 1))
    for g, area in enumerate(pairs.gt_areas):
        candidates = order[starts[g] : starts[g + 1]]
        free = candidates[~taken[pairs.det_index[candidates]]]
        if not len(free):
            union += area
            continue
        best, det = pairs.iou[free[0]], pairs.det_index[free[0]]
        taken[det] = True
        total = area + pairs.areas[det]
        common = best * total / (1.0 + best)
        intersection += common
        union += total - common
    return intersection, union + float(pairs.areas[~taken & ~pairs.in_crowd].sum())


def measures(vector: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the measures from summed counts.

    Args:
        vector: (..., 40), sums of :meth:`Counts.vector` over images.

    Returns:
        (..., 10) at :data:`IOU_THRESHOLDS` each, as fractions; nan where nothing is there: "precision", "recall", "F1",
        "accuracy" (TP / (TP + FP + FN)), "mean_iou" (of the matched pairs) and "PQ" (panoptic quality).
    """
    tp, fp, fn, iou_sum = np.split(np.asarray(vector, dtype=float), 4, axis=-1)

    def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)

    return {
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "F1": ratio(2 * tp, 2 * tp + fp + fn),
        "accuracy": ratio(tp, tp + fp + fn),
        "mean_iou": ratio(iou_sum, tp),
        "PQ": ratio(iou_sum, tp + fp / 2 + fn / 2),
    }


def best_threshold(all_pairs: Sequence[MaskPairs]) -> float:
    """Return the score threshold with the highest F1 at IoU 0.5 over images and categories; nan without detections.

    Detections are matched in the order of falling score, each with the free true instance of highest IoU, so that all
    thresholds are compared in one pass. Of equal thresholds the middle one is returned, between two scores.
    """
    scores, is_tp, counts = [np.zeros(0)], [np.zeros(0, bool)], [np.zeros(0, bool)]
    num_true = 0
    for pairs in all_pairs:
        matched = _match_greedily(pairs)
        scores.append(pairs.scores)
        is_tp.append(matched)
        counts.append(matched | ~pairs.in_crowd)
        num_true += len(pairs.gt_areas)
    all_scores = np.concatenate(scores)
    if not len(all_scores):
        return float("nan")
    order = np.argsort(-all_scores, kind="stable")
    sorted_scores = all_scores[order]
    tp, detected = (np.concatenate(one)[order].cumsum() for one in (is_tp, counts))
    is_last = np.append(sorted_scores[1:] < sorted_scores[:-1], True)  # of equal scores: all or none
    f1 = np.where(is_last, 2 * tp / np.maximum(detected + num_true, 1), -1.0)
    best = np.flatnonzero(f1 == f1.max())
    k = int(best[len(best) // 2])
    below = sorted_scores[k + 1] if k + 1 < len(sorted_scores) else 0.0
    middle = float((sorted_scores[k] + below) / 2)
    rounded = round(middle, 4)
    return rounded if below < rounded <= sorted_scores[k] else middle


def _match_greedily(pairs: MaskPairs) -> np.ndarray:
    """Return whether each detection is matched at IoU 0.5, by falling score; bool (D,)."""
    valid = np.flatnonzero(pairs.iou >= IOU_THRESHOLDS[0])
    rank = np.empty(len(pairs.scores), np.int64)
    rank[np.argsort(-pairs.scores, kind="stable")] = np.arange(len(rank))
    matched, taken = np.zeros(len(pairs.scores), bool), np.zeros(len(pairs.gt_areas), bool)
    for i in valid[np.lexsort((-pairs.iou[valid], rank[pairs.det_index[valid]]))]:
        det, gt = pairs.det_index[i], pairs.gt_index[i]
        if not matched[det] and not taken[gt]:
            matched[det] = taken[gt] = True
    return matched
