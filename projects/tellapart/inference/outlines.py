"""Masks as polygons along the edges of their pixels."""

from __future__ import annotations

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry


def mask_to_polygon(crop: np.ndarray, left: int, top: int) -> BaseGeometry:
    """Return the exact outline of a mask: a polygon, with holes, or several polygons.

    The corner of a pixel has whole-number coordinates, its center is half a pixel further: a pixel belongs to the mask
    if and only if its center is in the polygon. This is the frame of ImageJ's and QuPath's ROIs.

    Args:
        crop: bool (h, w).
        left, top: position of the crop in the image, pixels.
    """
    padded = np.pad(crop, ((0, 0), (1, 1))).astype(np.int8)
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    runs = shapely.box(starts + left, rows + top, ends + left, rows + top + 1)
    return shapely.simplify(shapely.union_all(runs), 0)


def rings(outline: BaseGeometry) -> list[np.ndarray]:
    """Return all rings of an outline, int64 (P, 2) each, x and y: of each polygon the outer one, then its holes.

    The first point is not repeated at the end.
    """
    polygons = [polygon for polygon in shapely.get_parts(outline) if not polygon.is_empty]
    lines = [line for polygon in polygons for line in (polygon.exterior, *polygon.interiors)]
    return [shapely.get_coordinates(line)[:-1].round().astype(np.int64) for line in lines]
