"""Evaluate a trained model on any annotated images, with intervals, and compare two models on the same images."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate
from tqdm import tqdm

from ..data.annotations import annotation_to_rle
from ..data.content import DatasetContent
from ..data.reader import read_dataset
from ..errors import InputError, first_few
from ..evaluation import InstanceEvaluator, bootstrap
from ..evaluation.instance_matching import Counts
from .folder import coco_results
from .image_model import to_instances
from .merging import Detections
from .predictor import Predictor

_MAX_DETECTIONS = 100_000  # per image: the model's own limits count, not COCO's 100
_MEASURES = (
    "AP",
    "AP50",
    "AP75",
    "F1",
    "precision",
    "recall",
    "accuracy",
    "mF1",
    "PQ",
    "AJI",
    "count_error",
    "count_bias",
)


@dataclass
class Evaluation:
    """The measures of a model on a data set.

    Attributes:
        of_all: by name, of all images, (1,).
        of_resamples: by name, of resampled images, (R,).
        threshold: of the score, for the measures that count instances.
        content: the data set.
        detections: of each image in the order of ``content.records``, with any score.
        counts: per image id, at the threshold.
        category_counts: per category, at the threshold, summed over the images.
        coco_eval: COCO's matches.
    """

    of_all: dict[str, np.ndarray]
    of_resamples: dict[str, np.ndarray]
    threshold: float
    content: DatasetContent
    detections: list[Detections]
    counts: dict[Any, Counts]
    category_counts: dict[str, Counts]
    coco_eval: COCOeval

    @property
    def num_images(self) -> int:
        """The number of evaluated images."""
        return len(self.counts)

    def intervals(self) -> dict[str, bootstrap.Interval]:
        """Return each measure with its 95 % interval."""
        return bootstrap.intervals(self.of_all, self.of_resamples)


def evaluate_model(predictor: Predictor, dataset_name: str, progress: bool = True) -> Evaluation:
    """Predict the images of a data set and compare with its annotations.

    AP is COCO's, of masks, over all detections. The other measures are those of ``InstanceEvaluator`` at the
    predictor's threshold; it is not chosen on these images.

    Args:
        predictor: the model.
        dataset_name: a registered data set with masks.
        progress: show a progress bar on stderr.

    Raises:
        InputError: the data set has no masks or other categories than the model, or an image cannot be read.
    """
    content = read_dataset(dataset_name)
    _check(predictor, content)
    is_agnostic = predictor.class_agnostic
    evaluator = InstanceEvaluator(
        dataset_name, distributed=False, score_threshold=predictor.threshold, class_agnostic=is_agnostic
    )
    results, all_found = [], []
    for record in tqdm(content.records, desc="images", unit="image", disable=not progress):
        try:
            source = predictor.open(record["file_name"])
        except OSError as error:
            raise InputError(f"{content.where}: {error}") from error
        found = Detections.of_parts(list(predictor.all_detections(source)))
        evaluator.process([record], [{"instances": to_instances(found)}])
        results += [{**one, "image_id": record["image_id"]} for one in coco_results(found)]
        all_found.append(found)
    evaluator.evaluate()
    coco_eval = _coco_eval(content, results, is_agnostic)
    resampled = bootstrap.ResampledAP(coco_eval)
    counts = [evaluator.per_image[image_id] for image_id in resampled.image_ids]
    weights = bootstrap.resample_weights(len(counts))
    ones = np.ones((1, len(counts)), dtype=np.int64)
    of_all, of_resamples = (
        {**bootstrap.ap_measures(resampled, w), **bootstrap.instance_measures(counts, w)} for w in (ones, weights)
    )
    return Evaluation(
        of_all, of_resamples, predictor.threshold, content, all_found, evaluator.per_image, evaluator.per_category,
        coco_eval,
    )  # fmt: skip


def _check(predictor: Predictor, content: DatasetContent) -> None:
    if not content.has_annotations or not content.has_masks:
        raise InputError(f"{content.where} has no masks: there is nothing to compare predictions with")
    names = predictor.class_names
    if not predictor.class_agnostic and names != content.classes:
        raise InputError(
            f"the model has the categories {first_few(names, 5)}, and {content.where} has "
            f"{first_few(content.classes, 5)}: expected the same names in the same order"
        )


def _coco_eval(content: DatasetContent, results: list[dict], class_agnostic: bool) -> COCOeval:
    """Match results with annotations as COCO's evaluation does, with category ids from 1."""
    truth = []
    for record in content.records:
        size = record["height"], record["width"]
        for one in record.get("annotations", []):
            category = 1 if class_agnostic else one["category_id"] + 1
            fields = {"category_id": category, "iscrowd": int(one.get("iscrowd", 0))}
            truth.append({"image_id": record["image_id"], "segmentation": annotation_to_rle(one, size), **fields})
    names = content.classes[:1] if class_agnostic else content.classes
    shared = {
        "images": [{"id": r["image_id"], "height": r["height"], "width": r["width"]} for r in content.records],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco_eval = COCOeval(*(_coco({**shared, "annotations": _numbered(part)}) for part in (truth, results)), "segm")
        coco_eval.params.maxDets = [1, 10, _MAX_DETECTIONS]
        coco_eval.params.areaRng, coco_eval.params.areaRngLbl = [[0, 1e10]], ["all"]
        coco_eval.evaluate()
    return coco_eval


def _numbered(annotations: list[dict]) -> list[dict]:
    """Return annotations with ids from 1 and areas."""
    return [
        {"iscrowd": 0, **one, "id": i, "area": float(coco_mask.area(one["segmentation"]))}
        for i, one in enumerate(annotations, 1)
    ]


def _coco(content: dict) -> COCO:
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def report(evaluation: Evaluation, against: Evaluation | None = None) -> str:
    """Return the table of the measures as text, see :func:`measure_table`."""
    headers, rows = measure_table(evaluation, against)
    return tabulate(rows, headers=headers, floatfmt=".2f", tablefmt="pipe")


def measure_table(evaluation: Evaluation, against: Evaluation | None = None) -> tuple[list[str], list[list]]:
    """Return headers and rows of the measures: value and 95 % interval, and the differences to another model."""
    own = evaluation.intervals()
    rows = [[name, own[name].value, _ends(own[name])] for name in _MEASURES]
    headers = ["measure", "value", "95 % interval"]
    if against is not None:
        other = against.intervals()
        difference = bootstrap.differences(
            (against.of_all, against.of_resamples), (evaluation.of_all, evaluation.of_resamples)
        )
        for row, name in zip(rows, _MEASURES):
            row += [other[name].value, difference[name].value, _ends(difference[name])]
        headers += ["other model", "difference", "95 % interval"]
    return headers, rows


def _ends(interval: bootstrap.Interval) -> str:
    if interval.low == interval.high:
        return "none"  # of one image, or of images that are all the same
    return f"{interval.low:.2f} to {interval.high:.2f}"


def evaluate_and_print(predictors: Sequence[Predictor], dataset_name: str) -> None:
    """Evaluate one model, or two on the same images, and print the tables and what may be incomplete."""
    evaluations = []
    for predictor in predictors:
        print(predictor.summary())
        evaluations.append(evaluate_model(predictor, dataset_name))
        for line in predictor.limits.notes():
            print(line)
        for line in predictor.limits.warnings():
            print(f"warning: {line}")
    print(
        f"{dataset_name}: {evaluations[0].num_images} images; intervals by bootstrap over images "
        f"({bootstrap.NUM_RESAMPLES} resamples)"
    )
    print(report(*evaluations))
