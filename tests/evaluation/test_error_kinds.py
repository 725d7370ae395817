"""Kinds of errors: each on an example, and together as many as the measures count."""

from __future__ import annotations

from tellapart.evaluation.error_kinds import KINDS, classify_errors
from tellapart.evaluation.instance_matching import Counts, MaskPairs

import numpy as np
import pytest
from pycocotools import mask as coco_mask


def rles(*boxes: tuple[int, int, int, int]) -> list[dict]:
    """RLEs of boxes XYXY in an image of 100 x 60 px."""
    masks = np.zeros((60, 100, len(boxes)), np.uint8, order="F")
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        masks[y0:y1, x0:x1, i] = 1
    return coco_mask.encode(masks)


def classify(detections: list, true: list, crowds: list = (), classes=None, gt_classes=None):
    classes = np.zeros(len(detections), int) if classes is None else np.array(classes)
    gt_classes = np.zeros(len(true), int) if gt_classes is None else np.array(gt_classes)
    crowd_rles = rles(*crowds) if crowds else []
    pairs = MaskPairs.from_rles(rles(*detections), np.linspace(0.9, 0.5, len(detections)), rles(*true), crowd_rles)
    errors = classify_errors(pairs, classes, gt_classes)
    return errors.detections.tolist(), errors.true.tolist()


LEFT, RIGHT, BOTH = (10, 10, 30, 30), (30, 10, 50, 30), (10, 10, 50, 30)


@pytest.mark.parametrize("detections, true, expected", [
    ([LEFT, RIGHT], [LEFT, RIGHT], (["correct", "correct"], ["correct", "correct"])),
    ([LEFT], [LEFT, RIGHT], (["correct"], ["correct", "missed"])),
    ([LEFT, RIGHT], [LEFT], (["correct", "false"], ["correct"])),
    ([BOTH], [LEFT, RIGHT], (["correct"], ["correct", "merged"])),  # IoU 0.5 with one of them
    ([(8, 8, 52, 32)], [LEFT, RIGHT], (["merged"], ["merged", "merged"])),
    ([LEFT, (32, 10, 50, 30)], [BOTH], (["correct", "split"], ["correct"])),
    ([(10, 10, 26, 30), (30, 10, 46, 30)], [BOTH], (["split", "split"], ["split"])),
    ([LEFT, (10, 10, 30, 29)], [LEFT], (["correct", "duplicate"], ["correct"])),
    ([(20, 10, 40, 30)], [(10, 10, 30, 30)], (["loose mask"], ["loose mask"])),
    ([(10, 10, 14, 30)], [LEFT], (["loose mask"], ["loose mask"])),
    ([(10, 10, 11, 12)], [LEFT], (["false"], ["missed"])),
    ([], [LEFT], ([], ["missed"])), ([LEFT], [], (["false"], [])), ([], [], ([], [])),
])  # fmt: skip
def test_each_kind(detections, true, expected):
    assert classify(detections, true) == expected


def test_categories_and_crowds():
    assert classify([LEFT], [LEFT], classes=[0], gt_classes=[1]) == (["wrong category"], ["wrong category"])
    assert classify([LEFT, LEFT], [LEFT], classes=[0, 1], gt_classes=[1]) == (["false", "correct"], ["correct"])
    # A detection over two objects of which one has another category covers only one.
    assert classify([(8, 8, 52, 32)], [LEFT, RIGHT], gt_classes=[0, 1])[1] == ["loose mask", "missed"]
    assert classify([LEFT, RIGHT], [LEFT], [(28, 5, 60, 40)]) == (["correct", "ignored"], ["correct"])


@pytest.mark.parametrize("seed", range(20))
def test_kinds_add_up_to_the_counts(seed):
    generator = np.random.default_rng(seed)

    def boxes(number: int) -> list:
        corners = generator.integers(0, 40, (number, 2))
        return [(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, generator.integers(4, 20, (number, 2)))]

    detections, true = boxes(generator.integers(1, 25)), boxes(generator.integers(1, 25))
    crowds = [(60, 30, 99, 59)] if seed % 2 else []
    pairs = MaskPairs.from_rles(
        rles(*detections), generator.random(len(detections)), rles(*true), rles(*crowds) if crowds else []
    )
    errors = classify_errors(pairs, np.zeros(len(detections), int), np.zeros(len(true), int))
    counts = Counts.of(pairs)
    assert (errors.true == "correct").sum() == (errors.detections == "correct").sum() == counts.tp[0]
    kinds = errors.counts()
    assert sum(of_detections for of_detections, _ in kinds.values()) == counts.fp[0]
    assert sum(of_true for _, of_true in kinds.values()) == counts.fn[0]
    assert set(errors.detections) <= {*KINDS, "correct", "ignored"} - {"missed"}
    assert set(errors.true) <= {*KINDS, "correct"} - {"duplicate", "false"}
