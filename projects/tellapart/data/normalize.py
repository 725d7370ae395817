"""Normalize the annotations of a data set: every one is read right, repaired and counted, or dropped and counted.

A clean annotation is kept as it is, the same object. Clean ones are found in blocks with numpy, so that COCO's 860,000
annotations take seconds; only the others are looked at one by one.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ..errors import InputError
from .changes import Changes
from .rle import check_compressed_rles
from .segmentations import _MAX_SIDES_OUTSIDE, are_lines, normalize_segmentation, segmentation_area, segmentation_box

# A box is replaced by its mask's if an edge differs by more than this many pixels plus this share of the mask's side.
BOX_TOLERANCE_PIXELS, BOX_TOLERANCE_SHARE = 2.0, 0.1
BOX_DIFFERS = (
    f"boxes that differ from their masks' by more than {BOX_TOLERANCE_PIXELS:g} pixels + {BOX_TOLERANCE_SHARE:.0%} "
    "replaced by the masks' boxes"
)
CROWD_TEXTS = {"": 0, "0": 0, "false": 0, "no": 0, "0.0": 0, "1": 1, "true": 1, "yes": 1, "1.0": 1}
_BLOCK = 8192
_MAX_AREA = 2.0**53  # pixels; larger integers are not exact as floats
_MIN_SIDE, _FRACTION_TOLERANCE = 16, 0.01


@dataclass
class Normalizer:
    """Normalizes COCO annotations of one data set.

    Attributes:
        where: the start of messages: the data set and its file.
        sizes: (height, width) in pixels by image id.
        categories: the known category ids.
        masks: whether every object must have a mask. If not, segmentations are only used for boxes that are missing.
        has_area: whether annotations are expected to have ``area``, as in COCO files.
        filled: values that were absent and have been filled in.
        bad: annotations and parts that were repaired or dropped.
    """

    where: str
    sizes: Mapping[Any, tuple[int, int]]
    categories: Mapping[int, Any]
    masks: bool
    has_area: bool = True
    filled: Changes = field(default_factory=Changes)
    bad: Changes = field(default_factory=Changes)
    num_like_xyxy: int = 0

    def normalize(self, annotations: list[Any]) -> list[dict | None]:
        """Return a valid annotation for each one, the same object if it was clean, or None if it is dropped.

        Raises:
            InputError: a category is missing or unknown.
        """
        normalized: list[dict | None] = []
        for start in range(0, len(annotations), _BLOCK):
            block = annotations[start : start + _BLOCK]
            clean = _Block(self).find_clean(block)
            for number, (annotation, is_clean) in enumerate(zip(block, clean), start + 1):
                normalized.append(annotation if is_clean else self.normalize_one(annotation, number))
        return normalized

    def normalize_one(self, annotation: Any, number: int) -> dict | None:
        """Return a valid annotation, the same object if nothing was changed, or None if it is dropped.

        Args:
            annotation: an entry of ``annotations``.
            number: its position from 1, for messages about an annotation without an id.
        """
        if not isinstance(annotation, dict):
            self.bad.add("annotations that are not objects dropped", f"number {number}")
            return None
        label = annotation["id"] if isinstance(annotation.get("id"), (int, str)) else f"number {number}"
        image_id = self._image_id(annotation)
        if image_id is None:
            self.bad.add("annotations of images that are not in the file dropped", label)
            return None
        changed: dict[str, Any] = {}
        _note(changed, annotation, "image_id", image_id)
        _note(changed, annotation, "category_id", self._category_id(annotation, label))
        if changed:
            self.filled.add("ids in annotations that are written as text or decimals read as whole numbers", label)
        iscrowd = self._iscrowd(annotation, label)
        if iscrowd is None:
            return None
        _note(changed, annotation, "iscrowd", iscrowd)
        height, width = self.sizes[image_id]
        segmentation, dropped, form = normalize_segmentation(annotation.get("segmentation"), height, width)
        if self.masks:
            for kind in dropped:
                self.bad.add(kind, label)
            if form:
                self.filled.add(f"{form} converted", label)
            if segmentation is None:
                self.bad.add("annotations without a usable mask left out", label)
                return None
            _note(changed, annotation, "segmentation", segmentation)
        box = self._box(annotation, label, segmentation, height, width)
        if box is None:
            return None
        _note(changed, annotation, "bbox", box)
        if self.has_area and not _is_positive_number(annotation.get("area")):
            self.filled.add("areas that are missing or not positive numbers computed from masks or boxes", label)
            area = box[2] * box[3] if segmentation is None else segmentation_area(segmentation, height, width)
            changed["area"] = area
        return {**annotation, **changed} if changed else annotation

    def _image_id(self, annotation: dict) -> Any:
        """Return the known image id that the annotation names, or None."""
        image_id = annotation.get("image_id")
        try:
            if image_id in self.sizes and not isinstance(image_id, bool):
                return image_id
        except TypeError:  # not hashable
            return None
        return integer_or_none(image_id) if integer_or_none(image_id) in self.sizes else None

    def _category_id(self, annotation: dict, label: object) -> int:
        category = annotation.get("category_id")
        number = integer_or_none(category)
        if number not in self.categories:
            known = ", ".join(map(str, list(self.categories)[:10])) + ", ..." * (len(self.categories) > 10)
            found = "has no 'category_id'" if category is None else f"names category {str(category)[:60]!r}"
            raise InputError(f"{self.where}: annotation {label} {found}, expected one of the file's: {known}")
        return number

    def _iscrowd(self, annotation: dict, label: object) -> int | None:
        """Return 0 or 1, or None if the annotation is dropped."""
        value = annotation.get("iscrowd")
        if value is None:
            if self.has_area or "iscrowd" in annotation:  # Detectron2's own dicts may leave it out
                self.filled.add("'iscrowd' that is missing or null read as 0", label)
            crowd = 0
        elif isinstance(value, (bool, int, float, np.number)) and value in (0, 1):
            crowd = int(value)
            if type(value) is not int:
                self.filled.add("'iscrowd' that is not an integer (true, 1.0) read as 0 or 1", label)
        else:
            crowd = CROWD_TEXTS.get(str(value).strip().lower(), -1) if isinstance(value, str) else -1
            if crowd < 0:
                self.bad.add("annotations whose 'iscrowd' is neither 0 nor 1 dropped", label)
                return None
            self.filled.add("'iscrowd' written as text read as a number", label)
        if annotation.get("ignore") not in (None, 0, False) and not crowd:
            self.filled.add("annotations with 'ignore' read as crowds", label)
            crowd = 1
        return crowd

    def _box(
        self, annotation: dict, label: object, segmentation: list | dict | None, height: int, width: int
    ) -> list[float] | None:
        """Return the annotation's box, XYWH in pixels, the mask's box where it is wrong, or None if there is none."""
        box = annotation.get("bbox")
        problem = box_problem(box, height, width)
        if segmentation is None:
            if problem:
                self.bad.add(f"annotations with {problem} and no mask dropped", label)
                return None
            return box
        if problem:
            self.bad.add(f"{problem} replaced by the masks' boxes", label)
            return segmentation_box(segmentation, height, width)
        if not self.masks:
            return box
        mask_box = segmentation_box(segmentation, height, width)
        if not boxes_differ(np.array([box], float), np.array([mask_box]), np.array([[width, height]]))[0]:
            return box
        self.bad.add(BOX_DIFFERS, label)
        xyxy_as_xywh = np.array([[box[0], box[1], box[2] - box[0], box[3] - box[1]]], float)
        self.num_like_xyxy += not boxes_differ(xyxy_as_xywh, np.array([mask_box]), np.array([[width, height]]))[0]
        return mask_box


def _note(changed: dict[str, Any], annotation: dict, key: str, value: Any) -> None:
    """Set ``changed[key]`` if ``value`` is another object, or of another type, than the annotation's."""
    old = annotation.get(key, ...)
    if old is not value and not (type(old) is type(value) and isinstance(value, (int, str)) and old == value):
        changed[key] = value


def integer_or_none(value: Any) -> int | None:
    """Return a whole number (int, 1.0, "1" or a numpy integer) as int, else None."""
    if isinstance(value, bool):
        return None
    try:
        number = int(value)
        return number if isinstance(value, str) or number == value else None
    except (TypeError, ValueError, OverflowError):
        return None


def _is_positive_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < _MAX_AREA


def box_problem(box: Any, height: int, width: int) -> str:
    """Return what is wrong with a box [x, y, width, height] in an image, as a plural, or ""."""
    if box is None or isinstance(box, (list, tuple)) and not box:
        return "missing boxes"
    try:
        if not isinstance(box, (list, tuple)) or len(box) != 4 or any(type(n) not in (int, float, bool) for n in box):
            return "boxes that are not [x, y, width, height]"
        if not all(map(math.isfinite, box)):
            return "boxes with numbers that are not finite"
    except OverflowError:
        return "boxes with numbers that are not finite"
    x, y, box_width, box_height = box
    if box_width <= 0 or box_height <= 0:
        return "boxes without an area"
    if x >= width or y >= height or x + box_width <= 0 or y + box_height <= 0:
        return "boxes outside the image"
    return ""


def boxes_differ(boxes: np.ndarray, mask_boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return which boxes differ from their masks' boxes by more than the tolerance.

    Args:
        boxes, mask_boxes: float (N, 4), XYWH in pixels.
        sizes: (N, 2), width and height of the images; boxes are clipped to them.

    Returns:
        bool (N,).
    """
    edges = [
        np.clip(np.concatenate((b[:, :2], b[:, :2] + b[:, 2:]), 1), 0, np.tile(sizes, 2)) for b in (boxes, mask_boxes)
    ]
    tolerance = BOX_TOLERANCE_PIXELS + BOX_TOLERANCE_SHARE * mask_boxes[:, 2:]
    return (np.abs(edges[0] - edges[1]) > np.tile(tolerance, 2)).any(1)


def check_units(where: str, annotations: Iterable[dict], sizes: dict[Any, tuple[int, int]]) -> None:
    """Check that the boxes of normalized annotations are in pixels.

    Args:
        where: the data set, for the message.
        annotations: with ``bbox``, XYWH, and ``image_id``.
        sizes: (height, width) of the images by ``image_id``.

    Raises:
        InputError: all boxes lie within the first pixel of images that are larger: their unit is the image's side.
    """
    is_empty = True
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        if max(x + width, y + height) > 1 + _FRACTION_TOLERANCE or min(sizes[annotation["image_id"]]) < _MIN_SIDE:
            return
        is_empty = False
    if not is_empty:
        raise InputError(
            f"{where}: all coordinates are from 0 to 1, expected pixels: multiply x by the width of the image and y by "
            "its height"
        )


class _Block:
    """Finds the clean annotations of a block: those that :meth:`Normalizer.normalize_one` would return unchanged."""

    def __init__(self, normalizer: Normalizer) -> None:
        self.normalizer = normalizer
        self.boxes, self.points = array("d"), array("d")
        self.polygon_lengths: list[int] = []
        self.polygon_owners: list[int] = []
        self.rle_owners: list[int] = []
        self.rles: list[dict] = []

    def find_clean(self, annotations: Iterable[Any]) -> list[bool]:
        """Return which annotations are clean. A few unusual ones may be missed, never the other way round."""
        annotations = list(annotations)
        candidates, sizes = [], []
        for i, annotation in enumerate(annotations):
            size = self._collect(annotation, len(candidates))
            if size is not None:
                candidates.append(i)
                sizes.append((size[1], size[0]))
        clean = np.zeros(len(annotations), dtype=bool)
        if candidates:
            clean[candidates] = self._check(np.array(sizes, dtype=np.float64))
        return clean.tolist()

    def _collect(self, annotation: Any, index: int) -> tuple[int, int] | None:
        """Append the numbers of an annotation for the checks of the block; return its image's size.

        None means that the annotation is unusual and nothing was appended.
        """
        normalizer = self.normalizer
        try:
            if type(annotation["image_id"]) not in (int, str) or type(annotation["category_id"]) is not int:
                return None
            size = normalizer.sizes[annotation["image_id"]]
            crowd, box = annotation.get("iscrowd", None if normalizer.has_area else 0), annotation["bbox"]
            if type(crowd) is not int or crowd not in (0, 1) or annotation["category_id"] not in normalizer.categories:
                return None
            if annotation.get("ignore") or normalizer.has_area and not _is_positive_number(annotation["area"]):
                return None
            if type(box) is not list or len(box) != 4:
                return None
            self.boxes.fromlist(box)
        except (KeyError, TypeError, OverflowError):
            return None
        if normalizer.masks and not self._collect_segmentation(annotation.get("segmentation"), size, index):
            del self.boxes[-4:]
            return None
        return size

    def _collect_segmentation(self, segmentation: Any, size: tuple[int, int], index: int) -> bool:
        if type(segmentation) is dict:
            if type(segmentation.get("counts")) not in (str, bytes) or segmentation.get("size") != list(size):
                return False
            if type(segmentation["size"][0]) is not int or type(segmentation["size"][1]) is not int:
                return False
            self.rle_owners.append(index)
            self.rles.append(segmentation)
            return True
        if type(segmentation) is not list or not segmentation:
            return False
        num_values = len(self.points)
        try:
            for polygon in segmentation:
                if len(polygon) < 6 or len(polygon) % 2:
                    break
                self.points.fromlist(polygon)
            else:
                self.polygon_lengths += [len(polygon) // 2 for polygon in segmentation]
                self.polygon_owners += [index] * len(segmentation)
                return True
        except (TypeError, OverflowError):
            pass
        del self.points[num_values:]
        return False

    def _check(self, sizes: np.ndarray) -> np.ndarray:
        """Return which candidates are clean; ``sizes`` (N, 2): width and height of their images."""
        boxes = np.frombuffer(self.boxes, dtype=np.float64).reshape(-1, 4)
        with np.errstate(invalid="ignore", over="ignore"):
            clean = np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1)
            clean &= (boxes[:, :2] < sizes).all(1) & (boxes[:, :2] + boxes[:, 2:] > 0).all(1)
            mask_boxes = np.zeros_like(boxes)
            if self.polygon_owners:
                self._check_polygons(clean, mask_boxes, sizes)
            if self.rles:
                self._check_rles(clean, mask_boxes, sizes)
            if self.normalizer.masks:
                clean &= ~boxes_differ(np.nan_to_num(boxes), mask_boxes, sizes)
        return clean

    def _check_polygons(self, clean: np.ndarray, mask_boxes: np.ndarray, sizes: np.ndarray) -> None:
        owners, num_points = np.array(self.polygon_owners), np.array(self.polygon_lengths)
        starts = np.cumsum(num_points) - num_points
        points = np.frombuffer(self.points, dtype=np.float64).reshape(-1, 2)
        low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
        size = sizes[owners]
        fine = (low >= -_MAX_SIDES_OUTSIDE * size) & (high <= (_MAX_SIDES_OUTSIDE + 1) * size)  # False for nan, inf
        fine &= (high > 0) & (low < size)
        clean[owners[~fine.all(1) | are_lines(points, starts, num_points)]] = False
        first = np.concatenate(([0], np.flatnonzero(np.diff(owners)) + 1))
        low = np.maximum(np.minimum.reduceat(low, first), 0)
        high = np.minimum(np.maximum.reduceat(high, first), sizes[owners[first]])
        mask_boxes[owners[first]] = np.nan_to_num(np.concatenate((low, high - low), 1))

    def _check_rles(self, clean: np.ndarray, mask_boxes: np.ndarray, sizes: np.ndarray) -> None:
        owners = np.array(self.rle_owners)
        valid, areas = check_compressed_rles([rle["counts"] for rle in self.rles], sizes[owners].prod(1))
        valid &= areas > 0
        clean[owners[~valid]] = False
        kept = [rle for rle, is_valid in zip(self.rles, valid) if is_valid]
        if kept:
            mask_boxes[owners[valid]] = np.reshape(coco_mask.toBbox(kept), (-1, 4))
