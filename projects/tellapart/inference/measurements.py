"""Measurements of instances: one row of a table per instance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from skimage.measure import regionprops

from ..data.image_source import ImageSource
from .merging import Detections


def columns(num_channels: int) -> list[str]:
    """Return the names of the columns of :func:`measure`."""
    intensities = [f"mean_intensity_{i + 1}" for i in range(num_channels)] if num_channels > 1 else ["mean_intensity"]
    return [
        *("image", "id", "category", "score", "area_px", "centroid_x", "centroid_y", "x0", "y0", "x1", "y1"),
        *("perimeter_px", "eccentricity", *intensities),
    ]


def measure(
    image: str, detections: Detections, source: ImageSource, class_names: Sequence[str]
) -> list[list[str | int | float]]:
    """Measure the instances of an image with scikit-image's ``regionprops``.

    Args:
        image: name of the image, for the first column.
        detections: of the image; instance i has the id i + 1.
        source: the image; intensities are the values in the file.
        class_names: by class.

    Returns:
        One row per instance, see :func:`columns`. Lengths are in pixels. The centroid and the box (the tight box of
        the mask, XYXY) have their origin at the upper left corner of the image: the first pixel's center is at 0.5.
    """
    rows = []
    for i, (crop, box) in enumerate(zip(detections.masks.crops, detections.masks.boxes.tolist())):
        # A border of one pixel, because the perimeter of a mask that touches the edge of the array would be shorter.
        region = regionprops(np.pad(crop, 1).astype(np.uint8))[0]
        row, column = region.centroid
        means = source.stored(*box)[crop].mean(0, dtype=np.float64)
        shape = [region.perimeter, region.eccentricity, *means.tolist()]
        place = [column - 0.5 + box[0], row - 0.5 + box[1], *box]
        name, score = class_names[detections.classes[i]], round(float(detections.scores[i]), 6)
        rows.append([image, i + 1, name, score, int(region.area), *(round(float(v), 4) for v in (*place, *shape))])
    return rows
