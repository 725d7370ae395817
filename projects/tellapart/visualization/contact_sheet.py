"""One picture of several validation images: the image, its true masks and the predicted ones side by side."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as utils
from pycocotools import mask as coco_mask

from ..data.annotations import annotation_to_rle
from .drawing import Color, brightened, captioned, fitted, palette, with_instances, write_rows

_TILE = 360  # longest side of an image on the sheet, pixels
_UNMATCHED = (150, 150, 150)


def contact_sheet_from_results(
    path: str | Path, dataset_name: str, results_json: str | Path, num_images: int, score_threshold: float
) -> None:
    """
    `write_contact_sheet` for the first images of a registered data set, with the predictions that the COCO evaluator
    left in `inference/coco_instances_results.json`: no second inference.
    """
    predictions: dict[Any, list[dict]] = defaultdict(list)
    for prediction in json.loads(Path(results_json).read_text()):
        predictions[prediction["image_id"]].append(prediction)
    metadata = MetadataCatalog.get(dataset_name)
    write_contact_sheet(path, DatasetCatalog.get(dataset_name), predictions, metadata, num_images, score_threshold)


def write_contact_sheet(
    path: str | Path,
    dataset_dicts: list[dict],
    predictions: dict[Any, list[dict]],
    metadata: Any,
    num_images: int,
    score_threshold: float,
) -> None:
    """
    Writes a PNG with a row for each image. A predicted instance has the colour of the true one that it fits best (same
    class, mask IoU of at least 0.5, each true one once, by falling score); one that fits none is grey.

    Args:
        path: of the PNG; its folder is made.
        dataset_dicts: Detectron2's, with annotations.
        predictions: for each `image_id` its predictions in COCO's result format: `category_id` of the data set's own
            numbering, `score`, `segmentation` as RLE in the image's size, or only `bbox` as [x, y, width, height].
        metadata: of the data set: `thing_classes` and `thing_dataset_id_to_contiguous_id`.
        num_images: how many of the first dataset dicts are shown.
        score_threshold: predictions below it are left out.
    """
    classes = metadata.thing_classes

    def kind(category: int) -> str:
        return classes[category] if len(classes) > 1 else ""  # nothing to say where there is only one

    contiguous = metadata.thing_dataset_id_to_contiguous_id
    rows = []
    for one in dataset_dicts[:num_images]:
        try:
            image = utils.read_image(one["file_name"], "BGR")
        except (OSError, SyntaxError):  # the loader has named it, or stopped the run
            continue
        size = image.shape[:2]
        image, gain = brightened(image)
        name = Path(one["file_name"]).name + (f", {gain:.1f} x brighter" if gain > 1 else "")
        true = [annotation for annotation in one.get("annotations", []) if not annotation.get("iscrowd", 0)]
        true_rles = [annotation_to_rle(annotation, size) for annotation in true]
        found = [p for p in predictions.get(one["image_id"], []) if p["score"] >= score_threshold]
        found.sort(key=lambda p: -p["score"])
        found_rles = [annotation_to_rle(p, size) for p in found]
        colors = palette(len(true))
        kinds = [contiguous[p["category_id"]] for p in found], [annotation["category_id"] for annotation in true]
        matches = _match(found_rles, true_rles, np.not_equal.outer(*kinds))
        rows.append(
            [
                _tile(image, name),
                _tile(image, f"truth: {len(true)}", true_rles, colors, [kind(category) for category in kinds[1]]),
                _tile(
                    image,
                    f"predicted: {len(found)}, of which {sum(m >= 0 for m in matches)} fit",
                    found_rles,
                    [colors[m] if m >= 0 else _UNMATCHED for m in matches],
                    [f"{kind(category)} {p['score']:.2f}".strip() for category, p in zip(kinds[0], found)],
                ),
            ]
        )
    if rows:
        write_rows(path, *rows)


def _match(found: list[dict], true: list[dict], differs: np.ndarray) -> list[int]:
    """
    For each of the RLEs `found`, in order, the index of the free one of `true` that it fits best, or -1; `differs`,
    bool (found, true), says which pairs are of different classes.
    """
    if not found or not true:
        return [-1] * len(found)
    overlaps = np.array(coco_mask.iou(found, true, [0] * len(true)))
    overlaps[differs] = 0
    matches = []
    for row in overlaps:
        best = int(row.argmax())
        matches.append(best if row[best] >= 0.5 else -1)
        if matches[-1] >= 0:
            overlaps[:, best] = 0
    return matches


def _tile(
    image: np.ndarray,
    caption: str,
    rles: list[dict] | None = None,
    colors: list[Color] | None = None,
    labels: list[str] | None = None,
) -> np.ndarray:
    """The image, uint8 BGR (H, W, 3), enlarged or shrunk to the tile's size, with masks, under a caption."""
    picture = fitted(image, _TILE, cv2.INTER_CUBIC)
    if rles is not None:
        picture = with_instances(picture, [coco_mask.decode(rle) for rle in rles], colors or [], labels or [])
    return captioned(picture, caption)
