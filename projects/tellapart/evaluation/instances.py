"""Measures that count instances: F1, precision, recall, PQ, AJI and count error, at one score threshold."""

from __future__ import annotations

import functools
import logging
from collections import OrderedDict
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from pycocotools import mask as coco_mask

from ..data.annotations import annotation_to_rle
from ..data.reader import read_dataset
from ..errors import InputError
from .instance_matching import IOU_THRESHOLDS, Counts, MaskPairs, best_threshold, measures

logger = logging.getLogger(__name__)


class InstanceEvaluator(DatasetEvaluator):
    """Compare the instances above a score threshold with the true ones; masks may overlap.

    Instances are matched one to one within each category, see :func:`match`. Counts are summed over all images and
    categories, then, in percent:

    - ``F1``, ``precision``, ``recall``, ``accuracy`` (TP / (TP + FP + FN)) at IoU 0.5; ``F1-75``, ``accuracy-75`` and
      so on at the other thresholds; ``mF1``, the mean of F1 over IoU 0.5, 0.55 ... 0.95; ``F1-<category>`` if there are
      several categories;
    - ``PQ``, the panoptic quality at IoU 0.5: sum of the matched IoU / (TP + FP / 2 + FN / 2);
    - ``AJI``, see :func:`aggregated_jaccard`, as the mean over images that have true or detected instances;

    and as numbers: ``count_error`` and ``count_bias``, the mean over images of the absolute and of the signed
    difference between the detected and the true number of instances; ``threshold``, the score threshold; ``images``.

    An image of the data set that was not processed has no detections. If an image was processed twice, the first time
    counts.

    Args:
        dataset_name: a registered data set.
        distributed: gather the detections of all processes and evaluate in the main one.
        output_dir: not used. It is accepted because all evaluators are built with it.
        score_threshold: None: the one with the highest F1 at IoU 0.5 on these images.
        class_agnostic: all categories count as one.
        max_detections: the largest number of instances that the model returns, for a warning.

    Attributes:
        per_image: after :meth:`evaluate`, the counts per image id, at the threshold.
        per_category: likewise, per category.
    """

    def __init__(
        self, dataset_name: str, distributed: bool = True, output_dir: str | None = None, *,
        score_threshold: float | None = None, class_agnostic: bool = False, max_detections: int | None = None,
    ) -> None:  # fmt: skip
        self._distributed, self._score_threshold = distributed, score_threshold
        self._class_agnostic, self._max_detections = class_agnostic, max_detections
        content = read_dataset(dataset_name)
        self._name, self._classes = dataset_name, ["object"] if class_agnostic else list(content.classes)
        self._has_truth = content.has_annotations
        self._records = {record["image_id"]: record for record in content.records}
        self.per_image: dict[Any, Counts] = {}
        self.per_category: dict[str, Counts] = {}
        self.reset()

    def reset(self) -> None:
        """Forget all processed images."""
        self._pairs: dict[Any, list[MaskPairs]] = {}  # per image, one per category
        self._has_masks = True

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Compare the instances of a batch with the true ones.

        Args:
            inputs: per image a dict with ``image_id``.
            outputs: per image a dict with ``instances``: ``scores``, ``pred_classes`` and ``pred_masks``, bool
                (N, H, W) or ``MaskCrops``.

        Raises:
            InputError: the data set has no such image, or the masks do not have its size.
        """
        for image_input, output in zip(inputs, outputs):
            image_id, instances = image_input["image_id"], output["instances"]
            if image_id not in self._records:
                raise InputError(f"image {image_id} is not in the data set {self._name}: evaluate on its own inputs")
            if not instances.has("pred_masks"):
                self._has_masks = False
            elif self._has_truth and image_id not in self._pairs:
                self._pairs[image_id] = self._compare(self._records[image_id], instances)

    def _compare(self, record: dict, instances: Instances | None) -> list[MaskPairs]:
        size = record["height"], record["width"]
        annotations = record.get("annotations", [])
        gt_rles = [annotation_to_rle(annotation, size) for annotation in annotations]
        gt_classes = np.array([annotation["category_id"] for annotation in annotations], dtype=np.int64)
        is_crowd = np.array([bool(annotation.get("iscrowd")) for annotation in annotations], dtype=bool)
        rles, scores, classes = [], np.zeros(0), np.zeros(0, np.int64)
        if instances is not None and len(instances):
            rles = _to_rles(instances.pred_masks)
            scores, classes = instances.scores.cpu().numpy(), instances.pred_classes.cpu().numpy()
            if tuple(rles[0]["size"]) != size:
                raise InputError(
                    f"image {record['image_id']}: masks are {rles[0]['size']}, expected {list(size)} pixels"
                )
        if self._class_agnostic:
            classes, gt_classes = np.zeros_like(classes), np.zeros_like(gt_classes)

        def pick(values: list[dict], chosen: np.ndarray) -> list[dict]:
            return [values[i] for i in np.flatnonzero(chosen)]

        return [
            MaskPairs.from_rles(
                pick(rles, classes == c), scores[classes == c], pick(gt_rles, (gt_classes == c) & ~is_crowd),
                pick(gt_rles, (gt_classes == c) & is_crowd),
            )
            for c in range(len(self._classes))
        ]  # fmt: skip

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Compute and log the measures.

        Returns:
            ``{"instances": {measure: value}}``, see the class. {} in processes other than the main one, if the data set
            has no annotations, or if the model predicts no masks.
        """
        pairs, has_masks = self._pairs, self._has_masks
        if self._distributed:
            gathered = comm.gather((pairs, has_masks), dst=0)
            if not comm.is_main_process():
                return OrderedDict()
            has_masks = all(one[1] for one in gathered)
            pairs = {image_id: p for part, _ in reversed(gathered) for image_id, p in part.items()}
        if not self._has_truth or not has_masks:
            reason = "the model predicts no masks" if self._has_truth else "the data set has no annotations"
            logger.warning("instances are not evaluated: %s", reason)
            return OrderedDict()
        pairs = {i: pairs.get(i) or self._compare(record, None) for i, record in self._records.items()}
        threshold = self._score_threshold
        if threshold is None:
            threshold = best_threshold([one for per_class in pairs.values() for one in per_class])
        least = threshold if np.isfinite(threshold) else 0.0
        per_class = {i: [Counts.of(one.above(least)) for one in of_image] for i, of_image in pairs.items()}
        self.per_image = {i: functools.reduce(Counts.__add__, counts) for i, counts in per_class.items()}
        results = {"threshold": float(threshold), **summarize(list(self.per_image.values()))}
        self.per_category = {
            name: functools.reduce(Counts.__add__, (counts[c] for counts in per_class.values()))
            for c, name in enumerate(self._classes)
        }
        if len(self._classes) > 1:
            for name, counts in self.per_category.items():
                results[f"F1-{name}"] = 100 * float(measures(counts.vector())["F1"][0])
        self._log(results, pairs, least)
        return OrderedDict(instances=results)

    def _log(self, results: dict[str, float], pairs: dict[Any, list[MaskPairs]], threshold: float) -> None:
        shown = ("F1", "precision", "recall", "mF1", "PQ", "AJI", "count_error", "count_bias")
        chosen = "chosen on these images" if self._score_threshold is None else "as given"
        logger.info(
            "Instances of %s with a score of at least %.4g (%s), at IoU 0.5: \n%s", self._name, threshold, chosen,
            create_small_table({name: results[name] for name in shown}),
        )  # fmt: skip
        limit = self._max_detections
        numbers = [sum(int((one.scores >= threshold).sum()) for one in of_image) for of_image in pairs.values()]
        full = sum(number >= limit for number in numbers) if limit and limit > 0 else 0
        if full:
            logger.warning(
                "%d images have as many instances as TEST.DETECTIONS_PER_IMAGE (%d): there may be more", full, limit
            )


def _to_rles(masks: Any) -> list[dict]:
    if hasattr(masks, "to_rles"):
        return masks.to_rles()
    columns = masks.transpose(1, 2).contiguous().cpu().numpy().view(np.uint8)
    return coco_mask.encode(columns.transpose(2, 1, 0))


def summarize(counts: list[Counts]) -> dict[str, float]:
    """Return the measures of :class:`InstanceEvaluator` from the counts of images, all but those per category."""
    of_data = measures(np.sum([one.vector() for one in counts], axis=0) if counts else np.zeros(40))
    percent = {name: 100 * values for name, values in of_data.items()}
    results = {name: float(percent[name][0]) for name in ("F1", "precision", "recall", "accuracy")}
    results["mF1"] = float(percent["F1"].mean())
    for name in ("F1", "accuracy"):
        for threshold, value in zip(IOU_THRESHOLDS[1:], percent[name][1:]):
            results[f"{name}-{round(100 * threshold)}"] = float(value)
    results["PQ"] = float(percent["PQ"][0])
    jaccard = [one.aji_intersection / one.aji_union for one in counts if one.aji_union]
    results["AJI"] = 100 * float(np.mean(jaccard)) if jaccard else float("nan")
    differences = np.array([one.num_detected - one.num_true for one in counts], dtype=float)
    results["count_error"] = float(np.abs(differences).mean()) if counts else float("nan")
    results["count_bias"] = float(differences.mean()) if counts else float("nan")
    results["images"] = len(counts)
    return results
