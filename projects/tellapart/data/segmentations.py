"""One segmentation of an annotation, in any form that people bring, as valid polygons or a valid RLE."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from .rle import check_compressed_rles

# A coordinate further than this many image sides outside the image is a mistake, not an object that is cut off.
_MAX_SIDES_OUTSIDE = 10


def normalize_segmentation(segmentation: Any, height: int, width: int) -> tuple[list | dict | None, list[str], str]:
    """Return a segmentation without its unusable parts.

    Args:
        segmentation: polygons ([[x1, y1, x2, y2, ...], ...], also as [x, y] pairs, as {"x": x, "y": y} points, or as
            one flat list), an RLE with ``counts`` as str, bytes or list, or a mask (H, W) as an array.
        height, width: of the image, pixels.

    Returns:
        The polygons or the RLE, the same object if nothing was changed, or None if no part is usable; the kinds of
        parts that were dropped; and the form that it was converted from, "" if it was not.
    """
    if isinstance(segmentation, dict) and "counts" in segmentation:
        rle, problem = _normalize_rle(segmentation, height, width)
        form = "RLEs with numbers that are not integers" if rle is not None and rle is not segmentation else ""
        return rle, [problem] if problem else [], form
    if isinstance(segmentation, np.ndarray) and segmentation.ndim == 2:
        if segmentation.shape != (height, width):
            return None, ["masks of another size than the image dropped"], ""
        rle = coco_mask.encode(np.asfortranarray(segmentation != 0, dtype=np.uint8))
        if not coco_mask.area(rle):
            return None, ["masks without a pixel dropped"], ""
        return rle, [], "masks given as arrays"
    if isinstance(segmentation, (list, tuple)):
        return _normalize_polygons(segmentation, height, width)
    return None, [] if segmentation is None else ["segmentations that are neither polygons nor RLE dropped"], ""


def segmentation_box(segmentation: list | dict, height: int, width: int) -> list[float]:
    """Return the box of valid polygons or of a valid RLE, XYWH in pixels, clipped to the image."""
    if isinstance(segmentation, dict):
        return [float(value) for value in coco_mask.toBbox(_compressed(segmentation, height, width))]
    x0 = max(0.0, min(min(polygon[0::2]) for polygon in segmentation))
    y0 = max(0.0, min(min(polygon[1::2]) for polygon in segmentation))
    x1 = min(float(width), max(max(polygon[0::2]) for polygon in segmentation))
    y1 = min(float(height), max(max(polygon[1::2]) for polygon in segmentation))
    return [x0, y0, x1 - x0, y1 - y0]


def segmentation_area(segmentation: list | dict, height: int, width: int) -> int:
    """Return the number of pixels of valid polygons or of a valid RLE."""
    if isinstance(segmentation, dict):
        return int(coco_mask.area(_compressed(segmentation, height, width)))
    return int(coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))))


def _compressed(rle: dict, height: int, width: int) -> dict:
    return coco_mask.frPyObjects(rle, height, width) if isinstance(rle["counts"], list) else rle


def _normalize_rle(rle: dict, height: int, width: int) -> tuple[dict | None, str]:
    """Return a valid RLE, the same object if it was valid, and why it is dropped, or "" if it is not."""
    counts, size = rle["counts"], rle.get("size")
    try:
        size_fits = [int(side) for side in size] == [height, width] and len(size) == 2
    except (TypeError, ValueError, OverflowError):
        size_fits = False
    if not size_fits:
        return None, "RLEs of another size than the image dropped"
    if isinstance(counts, (str, bytes)):
        valid, areas = check_compressed_rles([counts], [height * width])
        if not valid[0]:
            return None, "RLEs that are broken or cut off dropped"
        changed, area = False, areas[0]
    else:
        try:
            numbers = [int(count) for count in counts]
            valid = numbers == list(counts) and min(numbers) >= 0 and sum(numbers) == height * width
        except (TypeError, ValueError, OverflowError):
            valid = False
        if not valid:
            return None, "RLEs whose counts do not add up to the image's pixels dropped"
        changed = any(type(count) is not int for count in counts) or not isinstance(counts, list)
        area, counts = sum(numbers[1::2]), numbers
    if not area:
        return None, "masks without a pixel dropped"
    changed = changed or not isinstance(size, list) or any(type(side) is not int for side in size)
    return {"size": [height, width], "counts": counts} if changed else rle, ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number))


def _normalize_polygons(segmentation: list | tuple, height: int, width: int) -> tuple[list | None, list[str], str]:
    parts, converted_from = list(segmentation), ""
    if len(parts) >= 6 and all(_is_number(value) or isinstance(value, str) for value in parts):
        parts, converted_from = [parts], "polygons written as one flat list"
    elif len(parts) >= 3 and all(_is_point(part) for part in parts):
        parts, converted_from = [parts], "polygons written as [x, y] pairs"
    polygons, dropped = [], []
    for part in parts:
        polygon, form = _flat_numbers(part)
        problem = _polygon_problem(polygon, height, width)
        if problem:
            dropped.append(problem)
            continue
        converted_from = form or converted_from
        polygons.append(polygon)
    if not polygons:
        return None, dropped, converted_from
    unchanged = len(polygons) == len(segmentation) and all(a is b for a, b in zip(polygons, segmentation))
    return segmentation if unchanged and isinstance(segmentation, list) else polygons, dropped, converted_from


def _is_point(part: Any) -> bool:
    if isinstance(part, dict):
        return {"x", "y"} <= set(part)
    return isinstance(part, (list, tuple, np.ndarray)) and len(part) == 2


def _flat_numbers(part: Any) -> tuple[list | None, str]:
    """Return a polygon as [x1, y1, x2, y2, ...], the same list if it is one, or None; and the form it was in."""
    if isinstance(part, list) and part and all(type(value) in (int, float, bool) for value in part):
        return part, ""
    if isinstance(part, np.ndarray):
        part = part.tolist()
    if not isinstance(part, (list, tuple)):
        return None, ""
    form = ""
    if part and all(_is_point(point) for point in part):
        part = [value for point in part for value in _pair(point)]
        form = "polygons written as [x, y] pairs"
    numbers = []
    for value in part:
        if isinstance(value, str):
            form = "polygons with numbers written as text"
        elif not _is_number(value):
            return None, ""
        try:
            numbers.append(float(value))
        except (ValueError, OverflowError):
            return None, ""
    return numbers, form


def _pair(point: Any) -> list:
    return [point["x"], point["y"]] if isinstance(point, dict) else list(point)


def _polygon_problem(polygon: list | None, height: int, width: int) -> str:
    """Return why a polygon is dropped, or ""."""
    if polygon is None or len(polygon) % 2:
        return "polygons that are not lists of x, y numbers dropped"
    if len(polygon) < 6:
        return "polygons with fewer than 3 points dropped"
    try:
        if not all(map(math.isfinite, polygon)):
            return "polygons with coordinates that are not finite dropped"
    except OverflowError:  # an integer that no float can hold
        return "polygons with coordinates that are not finite dropped"
    xs, ys = polygon[0::2], polygon[1::2]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    far = _MAX_SIDES_OUTSIDE
    if x0 < -far * width or x1 > (far + 1) * width or y0 < -far * height or y1 > (far + 1) * height:
        return f"polygons with coordinates more than {far} image sides outside the image dropped"
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        return "polygons outside the image dropped"
    points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    if are_lines(points, np.array([0]), np.array([len(points)]))[0]:
        return "polygons of zero area (lines or points) dropped"
    return ""


def are_lines(points: np.ndarray, starts: np.ndarray, num_points: np.ndarray) -> np.ndarray:
    """Return which polygons have all their points on one line, within rounding.

    The triangles of the fan around the first point decide, without their signs: those of a self-crossing polygon may
    cancel out.

    Args:
        points: float64 (P, 2), the points of all polygons, one after the other.
        starts: int (N,), the index of the first point of each polygon.
        num_points: int (N,), the number of points of each.

    Returns:
        bool (N,).
    """
    relative = points - np.repeat(points[starts], num_points, axis=0)
    x, y = relative.T
    triangles = np.append(np.abs(x[:-1] * y[1:] - x[1:] * y[:-1]), 0.0)
    triangles[starts[1:] - 1] = 0.0  # from the last point of a polygon to the first of the next
    extents = np.maximum.reduceat(np.abs(relative).max(1), starts)
    return np.add.reduceat(triangles, starts) <= 1e-12 * extents**2 * num_points
