"""Images with the outlines of detections and missed objects, colored by what is right and wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from ..data.annotations import annotation_to_rle
from ..data.content import DatasetContent
from ..evaluation.error_kinds import CORRECT, IGNORED, KINDS, ImageErrors, classify_errors
from ..evaluation.instance_matching import MaskPairs
from ..inference.merging import Detections
from .drawing import Color, brighten, resize_longest

_SIZE = 640  # longer side of a picture, pixels
# BGR; that of a kind is used for detections, and for true instances that were not found.
COLORS: dict[str, Color] = {
    CORRECT: (90, 200, 60), "wrong category": (200, 60, 200), "duplicate": (230, 200, 40), "merged": (40, 140, 255),
    "split": (255, 150, 60), "loose mask": (60, 220, 250), "false": (160, 160, 160), "missed": (60, 60, 240),
    IGNORED: (120, 120, 120),
}  # fmt: skip


@dataclass(frozen=True)
class ImageComparison:
    """The detections of an image above the threshold, its true instances, and what is wrong.

    Attributes:
        record: the dataset dict.
        detections: above the threshold.
        true_rles: masks of the true instances, without crowds.
        errors: their kinds.
    """

    record: dict
    detections: Detections
    true_rles: list[dict]
    errors: ImageErrors

    @property
    def num_predicted(self) -> int:
        """The number of detections that count: those in crowd regions are left out."""
        return int((self.errors.detections != IGNORED).sum())

    @property
    def f1(self) -> float:
        """F1 of the image in percent; 100 if nothing is there and nothing is predicted."""
        found, total = int((self.errors.true == CORRECT).sum()), self.num_predicted + len(self.true_rles)
        return 200 * found / total if total else 100.0


def compare_image(
    content: DatasetContent, record: dict, detections: Detections, threshold: float, class_agnostic: bool
) -> ImageComparison:
    """Compare the detections of an image with its true instances.

    Args:
        content: the data set.
        record: the image.
        detections: with any score.
        threshold: least score.
        class_agnostic: all categories count as one.
    """
    size = record["height"], record["width"]
    detections = detections[detections.scores >= threshold]
    annotations = record.get("annotations", [])
    rles = [annotation_to_rle(one, size) for one in annotations]
    is_crowd = [bool(one.get("iscrowd")) for one in annotations]
    true_rles = [rle for rle, crowd in zip(rles, is_crowd) if not crowd]
    gt_classes = np.array([one["category_id"] for one, crowd in zip(annotations, is_crowd) if not crowd], np.int64)
    crowds = [rle for rle, crowd in zip(rles, is_crowd) if crowd]
    classes = detections.classes
    if class_agnostic:
        classes, gt_classes = np.zeros_like(classes), np.zeros_like(gt_classes)
    pairs = MaskPairs.from_rles(detections.masks.to_rles(), detections.scores, true_rles, crowds)
    return ImageComparison(record, detections, true_rles, classify_errors(pairs, classes, gt_classes))


def draw_comparison(image: np.ndarray, comparison: ImageComparison, size: int = _SIZE) -> np.ndarray:
    """Return the image with the outlines of the detections and of the true instances that were not found.

    Args:
        image: uint8 BGR (H, W, 3).
        comparison: of the image.
        size: longer side of the picture, pixels.
    """
    picture = resize_longest(brighten(image)[0], size, cv2.INTER_CUBIC)
    scale = size / max(image.shape[:2])
    detections, errors = comparison.detections, comparison.errors
    order = np.argsort(errors.detections != CORRECT, kind="stable")  # errors on top
    for i in order:
        x0, y0 = detections.masks.boxes[i, :2]
        _outline(picture, detections.masks.crops[i], (int(x0), int(y0)), scale, COLORS[str(errors.detections[i])])
    for rle, kind in zip(comparison.true_rles, errors.true):
        if kind != CORRECT:
            x, y, width, height = (int(v) for v in coco_mask.toBbox(rle))
            crop = coco_mask.decode(rle)[y : y + height, x : x + width]
            _outline(picture, crop, (x, y), scale, COLORS[str(kind)], dotted=True)
    return picture


def _outline(
    picture: np.ndarray, crop: np.ndarray, corner: tuple[int, int], scale: float, color: Color, dotted: bool = False
) -> None:
    lines, _ = cv2.findContours(crop.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for line in lines:
        points = np.round((line[:, 0] + np.array(corner) + 0.5) * scale - 0.5).astype(np.int32)
        if dotted:
            step = max(1, round(7 / max(scale, 1e-6)))
            for x, y in points[::step].tolist():
                cv2.circle(picture, (x, y), 2, color, -1, cv2.LINE_AA)
        else:
            cv2.polylines(picture, [points], True, color, 2, cv2.LINE_AA)


def summary(comparison: ImageComparison) -> str:
    """Return a line: F1, numbers of instances, and the errors."""
    counts = comparison.errors.counts()
    wrong = [f"{max(counts[kind])} {kind}" for kind in KINDS if max(counts[kind])]
    numbers = f"F1 {comparison.f1:.0f}, {comparison.num_predicted} predicted, {len(comparison.true_rles)} true"
    return f"{numbers}: {', '.join(wrong)}" if wrong else numbers


def legend(kinds: Sequence[str]) -> list[tuple[str, str]]:
    """Return the kinds with their colors in CSS."""
    return [(kind, "#{2:02x}{1:02x}{0:02x}".format(*COLORS[kind])) for kind in kinds]
