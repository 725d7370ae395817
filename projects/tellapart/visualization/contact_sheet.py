"""One picture of several validation images: the image, its true masks and the predicted ones side by side."""

from __future__ import annotations

import colorsys
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as utils
from pycocotools import mask as coco_mask

from ..masks import to_rle

_TILE = 360  # longest side of an image on the sheet, pixels
_BAR = 26  # height of a caption
_GAP = 8
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK, _PAPER, _UNMATCHED = (40, 40, 40), 250, (150, 150, 150)


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
        image, gain = _brighten(image)
        name = Path(one["file_name"]).name + (f", {gain:.1f} x brighter" if gain > 1 else "")
        true = [annotation for annotation in one.get("annotations", []) if not annotation.get("iscrowd", 0)]
        true_rles = [to_rle(annotation, size) for annotation in true]
        found = [p for p in predictions.get(one["image_id"], []) if p["score"] >= score_threshold]
        found.sort(key=lambda p: -p["score"])
        found_rles = [to_rle(p, size) for p in found]
        colors = _palette(len(true))
        kinds = [contiguous[p["category_id"]] for p in found], [annotation["category_id"] for annotation in true]
        matches = _match(found_rles, true_rles, np.not_equal.outer(*kinds))
        rows.append(
            np.hstack(
                [
                    _tile(image, name),
                    _tile(
                        image,
                        f"truth: {len(true)}",
                        true_rles,
                        colors,
                        [kind(category) for category in kinds[1]],
                    ),
                    _tile(
                        image,
                        f"predicted: {len(found)}, of which {sum(m >= 0 for m in matches)} fit",
                        found_rles,
                        [colors[m] if m >= 0 else _UNMATCHED for m in matches],
                        [f"{kind(category)} {p['score']:.2f}".strip() for category, p in zip(kinds[0], found)],
                    ),
                ]
            )
        )
    if not rows:
        return
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=_PAPER) for row in rows]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.vstack(rows))


def _brighten(image: np.ndarray) -> tuple[np.ndarray, float]:
    """An image that is dark all over, as in fluorescence microscopy, made brighter; and by what factor."""
    gain = min(8.0, 230 / max(1.0, float(np.percentile(image, 99.5))))
    if gain < 1.5:
        return image, 1.0
    return np.clip(image * gain, 0, 255).astype(np.uint8), gain


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


def _palette(count: int) -> list[tuple[int, int, int]]:
    """BGR colours, neighbours in the list far apart in hue."""
    hues = [(0.02 + i * 0.618034) % 1 for i in range(count)]
    return [tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.9, 1.0))[::-1] for hue in hues]


def _tile(
    image: np.ndarray,
    caption: str,
    rles: list[dict] | None = None,
    colors: list[tuple[int, int, int]] | None = None,
    labels: list[str] | None = None,
) -> np.ndarray:
    """The image, uint8 BGR (H, W, 3), enlarged or shrunk to the tile's size, with masks, under a caption."""
    factor = _TILE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))  # (width, height)
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    places = []
    if rles is not None:
        picture = picture // 2 + 48  # paler, so that the colours stand out
    for rle, color in zip(rles or [], colors or []):
        mask = coco_mask.decode(rle)
        mask = cv2.resize(mask * 255, size, interpolation=cv2.INTER_LINEAR) > 127
        if not mask.any():
            places.append(None)
            continue
        picture[mask] = (0.5 * picture[mask] + 0.5 * np.array(color)).astype(np.uint8)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, color, 2, cv2.LINE_AA)
        depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)
        row, col = np.unravel_index(depth.argmax(), depth.shape)  # the innermost point: inside even of a crescent
        places.append((int(col) - 1, int(row) - 1))
    for place, label in zip(places, labels or []):
        if place is not None:
            _write(picture, label, place)
    bar = np.full((_BAR, size[0], 3), _PAPER, np.uint8)
    cv2.putText(bar, caption, (2, _BAR - 8), _FONT, 0.45, _INK, 1, cv2.LINE_AA)
    tile = np.vstack([bar, picture])
    return np.pad(tile, ((0, _GAP), (_GAP, _GAP), (0, 0)), constant_values=_PAPER)


def _write(picture: np.ndarray, label: str, center: tuple[int, int]) -> None:
    """`label` in white with a dark rim, centred on (x, y) but kept inside."""
    scale = 0.4
    (width, height), _ = cv2.getTextSize(label, _FONT, scale, 1)
    x = min(max(center[0] - width // 2, 1), max(1, picture.shape[1] - width - 1))
    y = min(max(center[1] + height // 2, height + 1), picture.shape[0] - 3)
    for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):  # a thicker stroke would be wider than the text in OpenCV 5
        cv2.putText(picture, label, (x + dx, y + dy), _FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(picture, label, (x, y), _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)
