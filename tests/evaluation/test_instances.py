"""Measures that count instances: matching, threshold, measures, several processes, intervals."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import tellapart  # noqa: F401
from tellapart.evaluation import InstanceEvaluator, bootstrap
from tellapart.evaluation.instance_matching import (
    IOU_THRESHOLDS,
    Counts,
    MaskPairs,
    aggregated_jaccard,
    best_threshold,
    match,
    measures,
)

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from label_pairs import CASES, label_image
from pycocotools import mask as coco_mask

GOLDEN = json.loads((Path(__file__).parent / "golden_stardist.json").read_text())


def rles(masks: np.ndarray) -> list[dict]:
    return coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))) if len(masks) else []


def pairs_of(pred: np.ndarray, gt: np.ndarray, scores: np.ndarray | None = None, crowds=()) -> MaskPairs:
    scores = np.ones(len(pred)) if scores is None else scores
    return MaskPairs.from_rles(rles(pred), scores, rles(gt), rles(np.asarray(crowds)) if len(crowds) else [])


def masks_of(labels: np.ndarray) -> np.ndarray:
    return labels == np.unique(labels[labels > 0])[:, None, None]


def random_pairs(seed: int, number: int = 12) -> MaskPairs:
    rng = np.random.default_rng(seed)

    def masks() -> np.ndarray:
        result = np.zeros((number, 30, 30), bool)
        for mask in result:
            y, x = rng.integers(0, 22, 2)
            mask[y : y + rng.integers(4, 9), x : x + rng.integers(4, 9)] = True
        return result

    gt = masks()
    pred = np.concatenate((np.roll(gt[: number // 2], 1, axis=2), masks()))
    return pairs_of(pred, gt, rng.choice(np.linspace(0.1, 0.9, 9), len(pred)))


@pytest.mark.parametrize("case", range(len(CASES)))
def test_measures_are_those_of_stardist(case):
    truth, found = label_image(*CASES[case][0]), label_image(*CASES[case][1])
    of_image = measures(Counts.of(pairs_of(masks_of(found), masks_of(truth))).vector())
    for i, expected in enumerate(GOLDEN["images"][case]):
        for ours, theirs in (
            ("precision", "precision"), ("recall", "recall"), ("accuracy", "accuracy"), ("F1", "f1"),
            ("PQ", "panoptic_quality"), ("mean_iou", "mean_matched_score"),
        ):  # fmt: skip
            assert np.nan_to_num(of_image[ours][i]) == pytest.approx(expected[theirs], abs=1e-6)


def test_measures_of_a_data_set_are_those_of_stardist():
    counts = [
        Counts.of(pairs_of(masks_of(label_image(*found)), masks_of(label_image(*truth)))) for truth, found in CASES
    ]
    of_data = measures(sum(one.vector() for one in counts))
    for i, expected in enumerate(GOLDEN["data_set"]):
        for ours, theirs in (
            ("precision", "precision"),
            ("recall", "recall"),
            ("F1", "f1"),
            ("PQ", "panoptic_quality"),
        ):
            assert of_data[ours][i] == pytest.approx(expected[theirs], abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_matching_is_the_best_of_all(seed, threshold):
    pairs = random_pairs(seed, 3)
    valid = np.flatnonzero(pairs.iou >= threshold)
    best = (0, 0.0)
    for length in range(1, len(valid) + 1):
        for chosen in itertools.combinations(valid, length):
            index = list(chosen)
            if len(set(pairs.det_index[index])) == len(set(pairs.gt_index[index])) == length:
                best = max(best, (length, float(pairs.iou[index].sum())))
    found = match(pairs, threshold)
    assert len(found) == best[0] and pairs.iou[found].sum() == pytest.approx(best[1])


@pytest.mark.parametrize("seed", range(10))
def test_the_best_threshold_is_that_of_a_search(seed):
    pairs = [random_pairs(seed), random_pairs(seed + 100, 4)]

    def f1(threshold: float) -> float:
        counts = [Counts.of(one.above(threshold)) for one in pairs]
        return float(measures(sum(one.vector() for one in counts))["F1"][0])

    found = best_threshold(pairs)
    # Greedy matching, which the search for the threshold uses, can lose a pair that the optimal one has.
    assert f1(found) >= max(f1(t) for t in np.linspace(0.05, 0.95, 10)) - 0.04
    assert np.isnan(best_threshold([pairs_of(np.zeros((0, 5, 5), bool), np.ones((1, 5, 5), bool))]))


def test_detections_in_a_crowd_are_no_false_positives():
    masks = np.zeros((3, 10, 10), bool)
    masks[0, :4, :4] = masks[1, 6:, 6:] = masks[2, 6:, :4] = True
    crowd = np.zeros((1, 10, 10), bool)
    crowd[0, 5:, 5:] = True
    counts = Counts.of(pairs_of(masks, masks[:1], crowds=crowd))
    assert (counts.tp[0], counts.fp[0], counts.fn[0], counts.num_detected) == (1, 1, 0, 2)


def test_aggregated_jaccard_by_hand():
    gt, pred = np.zeros((2, 10, 10), bool), np.zeros((2, 10, 10), bool)
    gt[0, :4, :5] = gt[1, 6:, :5] = True  # 20 pixels each
    pred[0, :4, :4] = pred[1, :2, 7:] = True  # 16 of the first, and 6 of nothing
    assert aggregated_jaccard(pairs_of(pred, gt)) == pytest.approx((16, 20 + 20 + 6))


@pytest.fixture
def two_categories(tmp_path):
    """A data set of two images with two categories, and its masks."""
    name = "instances_evaluator_test"
    masks = np.zeros((3, 20, 24), bool)
    masks[0, 2:8, 2:8] = masks[1, 2:8, 5:12] = masks[2, 12:18, 12:20] = True
    annotations = [
        {"segmentation": rle, "bbox": coco_mask.toBbox(rle).tolist(), "bbox_mode": BoxMode.XYWH_ABS, "category_id": c}
        for rle, c in zip(rles(masks), (0, 0, 1))
    ]
    size = {"height": 20, "width": 24}
    for i in (1, 2):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((20, 24), np.uint8))
    records = [
        {"file_name": str(tmp_path / f"{i}.png"), "image_id": i, **size, "annotations": annotations} for i in (1, 2)
    ]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["cell", "debris"])
    yield name, torch.from_numpy(masks)
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def instances(masks: torch.Tensor, classes: list[int], scores: list[float]) -> dict:
    result = Instances(masks.shape[1:])
    result.pred_masks, result.scores = masks, torch.tensor(scores)
    result.pred_classes, result.pred_boxes = torch.tensor(classes), Boxes(torch.zeros(len(masks), 4))
    return {"instances": result}


def test_evaluator_on_overlapping_masks_of_two_categories(two_categories):
    name, masks = two_categories
    evaluator = InstanceEvaluator(name, distributed=False)
    evaluator.process([{"image_id": 1}], [instances(masks, [0, 0, 1], [0.9, 0.8, 0.7])])
    evaluator.process([{"image_id": 2}], [instances(masks, [0, 1, 1], [0.9, 0.1, 0.7])])
    evaluator.process([{"image_id": 1}], [instances(masks[:0], [], [])])  # the first time counts
    results = evaluator.evaluate()["instances"]
    assert 0.1 < results["threshold"] <= 0.7
    assert results["precision"] == 100 and results["recall"] == pytest.approx(100 * 5 / 6)
    assert results["F1-cell"] == pytest.approx(100 * 6 / 7) and results["F1-debris"] == 100
    assert (results["count_error"], results["count_bias"], results["images"]) == (0.5, -0.5, 2)
    fixed = InstanceEvaluator(name, distributed=False, score_threshold=0.85, class_agnostic=True)
    fixed.process([{"image_id": 1}], [instances(masks, [0, 0, 1], [0.9, 0.8, 0.7])])
    results = fixed.evaluate()["instances"]
    assert results["threshold"] == 0.85 and results["recall"] == pytest.approx(100 / 6)


def test_a_full_image_is_warned_of(two_categories, caplog):
    name, masks = two_categories
    evaluator = InstanceEvaluator(name, distributed=False, max_detections=3)
    evaluator.process([{"image_id": 1}], [instances(masks, [0, 0, 1], [0.9, 0.8, 0.7])])
    with caplog.at_level("WARNING"):
        evaluator.evaluate()
    assert "1 images have as many instances as TEST.DETECTIONS_PER_IMAGE (3)" in caplog.text


def test_weights_of_one_return_the_measures_and_intervals_contain_them():
    counts = [Counts.of(random_pairs(seed)) for seed in range(30)]
    weights = bootstrap.resample_weights(30)
    assert (weights.sum(1) == 30).all()
    ones = bootstrap.instance_measures(counts, np.ones((1, 30)))
    assert ones["F1"][0] == pytest.approx(100 * measures(sum(c.vector() for c in counts))["F1"][0])
    resampled = bootstrap.instance_measures(counts, weights)
    for name, interval in bootstrap.intervals(ones, resampled).items():
        assert interval.low <= interval.value <= interval.high, name
    same = bootstrap.differences((ones, resampled), (ones, resampled))
    assert all(one.low == one.value == one.high == 0 for one in same.values())
    # A resample is the same as the images repeated.
    repeated = [counts[i] for i in np.repeat(np.arange(30), weights[0])]
    assert resampled["PQ"][0] == pytest.approx(bootstrap.instance_measures(repeated, np.ones((1, 30)))["PQ"][0])
    assert len(IOU_THRESHOLDS) == 10
