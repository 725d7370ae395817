"""The contact sheet: validation images, their ground-truth masks and the predicted masks side by side."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from ..data.annotations import annotation_to_rle
from ..data.content import DatasetContent
from ..data.image_reading import ImageReader
from .drawing import Color, add_caption, brighten, draw_instances, palette, resize_longest, write_rows

_PANEL_SIZE = 360  # longer side of an image on the sheet, pixels
_UNMATCHED = (150, 150, 150)
_MATCH_IOU = 0.5


def contact_sheet_from_results(
    path: str | Path, content: DatasetContent, results_json: str | Path, num_images: int, score_threshold: float,
    reader: ImageReader,
) -> None:  # fmt: skip
    """Draw the contact sheet from the results file of an evaluation, without running inference again.

    Args:
        path: of the PNG; its folder is created if it does not exist.
        content: the data set, see ``read_dataset``.
        results_json: ``inference/coco_instances_results.json``, written by the COCO evaluator.
        num_images, score_threshold, reader: see :func:`write_contact_sheet`.
    """
    predictions: dict[Any, list[dict]] = defaultdict(list)
    for prediction in json.loads(Path(results_json).read_text()):
        predictions[prediction["image_id"]].append(prediction)
    contiguous_ids = {category: index for index, category in enumerate(content.category_ids)}
    metadata = SimpleNamespace(thing_classes=content.classes, thing_dataset_id_to_contiguous_id=contiguous_ids)
    write_contact_sheet(path, content.records, predictions, metadata, num_images, score_threshold, reader)


def write_contact_sheet(
    path: str | Path,
    dataset_dicts: list[dict],
    predictions: dict[Any, list[dict]],
    metadata: Any,
    num_images: int,
    score_threshold: float,
    reader: ImageReader,
) -> None:
    """Write a PNG with one row per image: the image, the ground truth, the predictions.

    A predicted instance has the color of the ground-truth instance that it matches: the one with the highest mask IoU,
    at least 0.5, of the same category. Predictions are matched by descending score, and each ground-truth instance is
    matched once. Predictions without a match are gray. Images that cannot be read are left out.

    Args:
        path: of the PNG; its folder is created if it does not exist.
        dataset_dicts: Detectron2's dataset dicts with annotations.
        predictions: per ``image_id``, the predictions in COCO's result format: ``category_id`` as in the annotation
            file, ``score``, and ``segmentation`` as RLE in the size of the image or, without masks, ``bbox`` as
            [x, y, width, height].
        metadata: of the data set: ``thing_classes`` and ``thing_dataset_id_to_contiguous_id``.
        num_images: number of images, from the start of ``dataset_dicts``.
        score_threshold: predictions below it are not drawn.
        reader: reads the images.
    """
    class_names = metadata.thing_classes
    contiguous_ids = metadata.thing_dataset_id_to_contiguous_id

    def label(category: int) -> str:
        return class_names[category] if len(class_names) > 1 else ""

    rows = []
    for record in dataset_dicts[:num_images]:
        try:
            image = reader.picture(record["file_name"])
        except (OSError, SyntaxError):  # the data loader has reported it already
            continue
        size = image.shape[:2]
        image, gain = brighten(image)
        name = Path(record["file_name"]).name + (f", {gain:.1f} x brighter" if gain > 1 else "")
        annotations = [a for a in record.get("annotations", []) if not a.get("iscrowd", 0)]
        gt_rles = [annotation_to_rle(a, size) for a in annotations]
        gt_classes = [a["category_id"] for a in annotations]
        detections = [p for p in predictions.get(record["image_id"], []) if p["score"] >= score_threshold]
        detections.sort(key=lambda p: -p["score"])
        pred_rles = [annotation_to_rle(p, size) for p in detections]
        pred_classes = [contiguous_ids[p["category_id"]] for p in detections]
        gt_colors = palette(len(annotations))
        gt_index = _match(pred_rles, gt_rles, np.not_equal.outer(pred_classes, gt_classes))
        pred_colors = [gt_colors[i] if i >= 0 else _UNMATCHED for i in gt_index]
        gt_labels = [label(category) for category in gt_classes]
        pred_labels = [f"{label(c)} {p['score']:.2f}".strip() for c, p in zip(pred_classes, detections)]
        num_matched = sum(i >= 0 for i in gt_index)
        summary = f"predicted: {len(detections)}, of which {num_matched} match"
        rows.append(
            [
                _panel(image, name),
                _panel(image, f"ground truth: {len(annotations)}", gt_rles, gt_colors, gt_labels),
                _panel(image, summary, pred_rles, pred_colors, pred_labels),
            ]
        )
    if rows:
        write_rows(path, *rows)


def _match(pred_rles: list[dict], gt_rles: list[dict], classes_differ: np.ndarray) -> list[int]:
    """Match predictions, by descending score, to ground-truth masks of the same category.

    Args:
        pred_rles: D masks.
        gt_rles: G masks.
        classes_differ: bool (D, G).

    Returns:
        For each prediction, the index of its ground-truth mask, or -1 without a match.
    """
    if not pred_rles or not gt_rles:
        return [-1] * len(pred_rles)
    iou = np.array(coco_mask.iou(pred_rles, gt_rles, [0] * len(gt_rles)))
    iou[classes_differ] = 0
    matches = []
    for row in iou:
        best = int(row.argmax())
        matches.append(best if row[best] >= _MATCH_IOU else -1)
        if matches[-1] >= 0:
            iou[:, best] = 0
    return matches


def _panel(
    image: np.ndarray,
    caption: str,
    rles: list[dict] | None = None,
    colors: list[Color] | None = None,
    labels: list[str] | None = None,
) -> np.ndarray:
    """Return a panel with the image, uint8 BGR (H, W, 3), and masks; without ``rles``, the image as it is."""
    picture = resize_longest(image, _PANEL_SIZE, cv2.INTER_CUBIC)
    if rles is not None:
        picture = draw_instances(picture, [coco_mask.decode(rle) for rle in rles], colors or [], labels or [])
    return add_caption(picture, caption)
