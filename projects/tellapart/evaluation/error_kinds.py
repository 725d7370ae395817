"""Why detections and true instances do not match: missed, split, merged, wrong category, duplicate, loose mask, false.

The kinds for objects that touch, split and merged, are added to those of TIDE (Bolya et al., 2020), whose limits of the
IoU, 0.1 and 0.5, are used.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from .instance_matching import MaskPairs, match

_MATCH_IOU, _LOOSE_IOU = 0.5, 0.1
_MAIN_PART = 0.5  # share of an object that a detection covers, or of a detection that lies in an object

CORRECT, IGNORED = "correct", "ignored"
# Kind -> what it means, for detections and for true instances. Each has the first kind that applies, in this order.
KINDS = {
    "wrong category": "the mask fits an object of another category",
    "duplicate": "the object has been detected already",
    "merged": "one detection covers several objects",
    "split": "several detections lie in one object",
    "loose mask": "the mask overlaps the object, with an IoU below 0.5",
    "false": "there is no such object",
    "missed": "there is no such detection",
}


@dataclass(frozen=True)
class ImageErrors:
    """The kinds of the detections and of the true instances of an image.

    Attributes:
        detections: (D,), ``CORRECT``, ``IGNORED`` (in a crowd region) or a kind; never "missed".
        true: (G,), ``CORRECT`` or a kind; never "duplicate" or "false".
    """

    detections: np.ndarray
    true: np.ndarray

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return the number of detections and of true instances of each kind; they add up to FP and FN."""
        return {kind: (int((self.detections == kind).sum()), int((self.true == kind).sum())) for kind in KINDS}


def classify_errors(pairs: MaskPairs, classes: np.ndarray, gt_classes: np.ndarray) -> ImageErrors:
    """Classify the detections and the true instances of an image.

    Matches are those of the measures: one to one at IoU 0.5, within each category.

    Args:
        pairs: of the detections above the score threshold and the true instances, of all categories.
        classes: int (D,), categories of the detections.
        gt_classes: int (G,), of the true instances.
    """
    det, gt = pairs.det_index, pairs.gt_index
    common = pairs.iou * (pairs.areas[det] + pairs.gt_areas[gt]) / (1 + pairs.iou)
    same = classes[det] == gt_classes[gt]
    covers = same & (common >= _MAIN_PART * pairs.gt_areas[gt])
    inside = same & (common >= _MAIN_PART * pairs.areas[det])
    num_covered = np.bincount(det[covers], minlength=len(classes))
    num_pieces = np.bincount(gt[inside], minlength=len(gt_classes))

    kinds, gt_kinds = (np.full(len(one), "", dtype="<U20") for one in (classes, gt_classes))
    matched = _match(pairs, same)
    kinds[det[matched]] = gt_kinds[gt[matched]] = CORRECT
    is_open = (kinds[det] == "") & (gt_kinds[gt] == "")
    wrong = _match(pairs, ~same & is_open)
    kinds[det[wrong]] = gt_kinds[gt[wrong]] = "wrong category"

    def mark(of: np.ndarray, index: np.ndarray, kind: str) -> None:
        of[index[of[index] == ""]] = kind

    mark(kinds, det[same & (pairs.iou >= _MATCH_IOU)], "duplicate")
    merging = covers & (num_covered[det] >= 2)
    mark(kinds, det[merging], "merged")
    mark(gt_kinds, gt[merging], "merged")
    splitting = inside & (num_pieces[gt] >= 2)
    mark(kinds, det[splitting], "split")
    mark(gt_kinds, gt[splitting], "split")
    loose = same & (pairs.iou >= _LOOSE_IOU) & (kinds[det] == "") & (gt_kinds[gt] == "")
    mark(kinds, det[loose], "loose mask")
    mark(gt_kinds, gt[loose], "loose mask")
    kinds[(kinds != CORRECT) & pairs.in_crowd] = IGNORED
    kinds[kinds == ""], gt_kinds[gt_kinds == ""] = "false", "missed"
    return ImageErrors(kinds, gt_kinds)


def _match(pairs: MaskPairs, allowed: np.ndarray) -> np.ndarray:
    """Return the positions of the matched pairs, among those that are allowed."""
    index = np.flatnonzero(allowed)
    part = dataclasses.replace(
        pairs, det_index=pairs.det_index[index], gt_index=pairs.gt_index[index], iou=pairs.iou[index]
    )
    return index[match(part, _MATCH_IOU)]
