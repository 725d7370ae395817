"""Files of the instances of one image: label images, overlays, ROIs of ImageJ, GeoJSON for QuPath.

Each function writes one complete file, or raises an OSError and leaves none.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import roifile
import shapely
import tifffile

from ..data.image_source import ImageSource
from ..data.pixel_scaling import scale_pixels
from ..files import atomic_file, atomic_path
from ..visualization.drawing import brighten, palette
from .merging import Detections
from .outlines import mask_to_polygon, rings

_STRIP = 512  # rows that are in memory at a time, and the side of the tiles of a large label image
_MAX_WHOLE_PIXELS = 2**24  # of a label image that is written at once
_MAX_OVERLAY_SIDE = 4096  # pixels; the overlay of a larger image is smaller
_BIGTIFF_BYTES = 2**31


# ----------------------------------------------------------------------------------------------------- label images


def write_labels(path: Path, detections: Detections) -> None:
    """Write a label image, a 32-bit TIFF: pixel value i + 1 for instance i; where masks overlap, the higher score."""
    order = np.argsort(detections.scores, kind="stable")  # painted last: the highest score
    _write_planes(path, detections, [order])


def write_label_stack(path: Path, detections: Detections) -> bool:
    """Write a stack of label images in which no two masks overlap, if any do.

    Each instance is in the first plane that has room for it, with the pixel value of the label image.

    Returns:
        Whether there is a file: without overlaps the label image has everything.
    """
    planes = disjoint_planes(detections)
    if len(planes) > 1:
        _write_planes(path, detections, planes)
    return len(planes) > 1


def disjoint_planes(detections: Detections) -> list[np.ndarray]:
    """Distribute instances over planes, so that masks in a plane have no pixel in common; indices per plane."""
    masks = detections.masks
    neighbors: dict[int, list[int]] = {}
    for i, j in masks.touching_pairs().tolist():
        if masks.common_pixels(i, j):
            neighbors.setdefault(j, []).append(i)
    planes: list[int] = []
    for i in range(len(masks)):
        taken = {planes[j] for j in neighbors.get(i, ())}
        planes.append(next(plane for plane in range(len(taken) + 1) if plane not in taken))
    plane_index = np.array(planes, dtype=np.int64)
    return [np.flatnonzero(plane_index == plane) for plane in range(max(planes, default=-1) + 1)]


def _write_planes(path: Path, detections: Detections, planes: Sequence[np.ndarray]) -> None:
    height, width = detections.masks.image_size
    shape = (height, width) if len(planes) == 1 else (len(planes), height, width)
    options = {
        "shape": shape,
        "dtype": np.uint32,
        "compression": "zlib",
        "photometric": "minisblack",
        "metadata": {"axes": "YX" if len(planes) == 1 else "ZYX"},
    }
    with atomic_path(path) as temporary:
        if height * width <= _MAX_WHOLE_PIXELS:
            labels = np.stack([next(_strips(detections, [plane], height)) for plane in planes])
            tifffile.imwrite(temporary, labels.reshape(shape), **options)
        else:
            bigtiff = 4 * int(np.prod(shape)) > _BIGTIFF_BYTES
            tiles = _squares(_strips(detections, planes, _STRIP))
            tifffile.imwrite(temporary, tiles, tile=(_STRIP, _STRIP), bigtiff=bigtiff, **options)


def _squares(strips: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield strips cut into squares, padded with zeros at the ends of the image."""
    for strip in strips:
        height, width = strip.shape
        padded = np.pad(strip, ((0, _STRIP - height), (0, -width % _STRIP)))
        yield from (padded[:, left : left + _STRIP] for left in range(0, width, _STRIP))


def _strips(detections: Detections, planes: Sequence[np.ndarray], strip: int) -> Iterator[np.ndarray]:
    """Yield the label image of each plane in strips of rows; instances are painted in the order of the plane."""
    masks = detections.masks
    height, width = masks.image_size
    tops, bottoms = masks.boxes[:, 1], masks.boxes[:, 3]
    for plane in planes:
        for start in range(0, height, strip):
            stop = min(start + strip, height)
            labels = np.zeros((stop - start, width), np.uint32)
            for i in plane[(tops[plane] < stop) & (bottoms[plane] > start)]:
                x0, y0, x1, y1 = masks.boxes[i]
                low, high = max(y0, start), min(y1, stop)
                labels[low - start : high - start, x0:x1][masks.crops[i][low - y0 : high - y0]] = i + 1
            yield labels


# ---------------------------------------------------------------------------------------------------------- outlines


def write_rois(path: Path, detections: Detections, class_names: Sequence[str]) -> None:
    """Write a ZIP of ImageJ ROIs, one per instance, named "0001 cell 0.97"."""
    names = instance_names(detections, class_names)
    with atomic_path(path) as temporary:
        rois = [_roi(*shape, name) for shape, name in zip(_crops(detections), names)]
        temporary.unlink(missing_ok=True)
        if rois:
            roifile.roiwrite(temporary, rois, name=[f"{name}.roi" for name in names])
        else:
            temporary.write_bytes(b"PK\x05\x06" + bytes(18))  # an empty ZIP


def instance_names(detections: Detections, class_names: Sequence[str]) -> list[str]:
    """Return a name per instance: number, category and score."""
    values = zip(detections.classes, detections.scores)
    return [f"{i:04d} {class_names[c]} {score:.2f}" for i, (c, score) in enumerate(values, 1)]


def _crops(detections: Detections) -> Iterator[tuple[np.ndarray, int, int]]:
    return ((crop, *box[:2]) for crop, box in zip(detections.masks.crops, detections.masks.boxes.tolist()))


def _roi(crop: np.ndarray, left: int, top: int, name: str) -> roifile.ImagejRoi:
    lines = rings(mask_to_polygon(crop, left, top))
    if len(lines) == 1:
        roi = roifile.ImagejRoi.frompoints(lines[0], name=name)
        roi.roitype = roifile.ROI_TYPE.POLYGON
        return roi
    # A composite ROI: a path of moves (0), lines (1) and ends (4), filled by the even-odd rule.
    path = [np.concatenate(([[0, *line[0]]], [[1, *point] for point in line[1:]])).ravel() for line in lines]
    coordinates = np.concatenate([np.concatenate((part, [4])) for part in path]).astype(np.float32)
    height, width = crop.shape
    return roifile.ImagejRoi(
        roitype=roifile.ROI_TYPE.RECT, name=name, left=left, top=top, right=left + width, bottom=top + height,
        shape_roi_size=len(coordinates), multi_coordinates=coordinates,
    )  # fmt: skip


def write_geojson(path: Path, detections: Detections, class_names: Sequence[str]) -> None:
    """Write a GeoJSON ``FeatureCollection`` as QuPath reads it: one detection object per instance."""
    colors = [list(reversed(color)) for color in palette(len(class_names))]
    with atomic_file(path) as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for i, (crop, left, top) in enumerate(_crops(detections)):
            category = int(detections.classes[i])
            feature = {
                "type": "Feature",
                "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{path.name}#{i + 1}")),
                "geometry": shapely.geometry.mapping(mask_to_polygon(crop, left, top)),
                "properties": {
                    "objectType": "detection",
                    "name": str(i + 1),
                    "classification": {"name": class_names[category], "color": colors[category]},
                    "measurements": {"score": round(float(detections.scores[i]), 6), "area_px": int(crop.sum())},
                },
            }
            file.write((",\n" if i else "\n") + json.dumps(feature))
        file.write("\n]}\n")


# ----------------------------------------------------------------------------------------------------------- overlay


def write_overlay(path: Path, source: ImageSource, detections: Detections) -> None:
    """Write a PNG of the image with the outlines of its instances, colored by instance.

    Dark images are brightened. An image whose longer side has more than 4096 pixels is reduced to that.
    """
    picture = draw_overlay(*_picture(source), detections)
    encoded, data = cv2.imencode(".png", picture)
    if not encoded:
        raise OSError(f"{path}: the overlay cannot be encoded as PNG")
    with atomic_file(path, "wb") as file:
        file.write(data.tobytes())


def _picture(source: ImageSource) -> tuple[np.ndarray, int]:
    """Return an image as uint8 BGR (h, w, 3), reduced by taking every n-th pixel, and n."""
    step = -(-max(source.height, source.width) // _MAX_OVERLAY_SIDE)
    rows = [
        source.stored(0, top, source.width, min(top + _STRIP * step, source.height))[::step, ::step]
        for top in range(0, source.height, _STRIP * step)
    ]
    stored = np.concatenate(rows)
    pixels = scale_pixels(stored, "auto", per_channel=stored.shape[2] not in (3, 4))
    channels = [2, 1, 0] if pixels.shape[2] >= 3 else [0, 0, 0]
    return brighten(np.ascontiguousarray(pixels[..., channels]))[0], step


def draw_overlay(picture: np.ndarray, step: int, detections: Detections) -> np.ndarray:
    """Draw instances on a picture, uint8 BGR (h, w, 3), which shows every ``step``-th pixel of the image."""
    tinted = picture.copy()
    colors = palette(len(detections))
    thickness = 1 if max(picture.shape[:2]) < 1500 else 2
    for (crop, left, top), color in zip(_crops(detections), colors):
        mask = crop[-top % step :: step, -left % step :: step]
        x, y = -(-left // step), -(-top // step)
        if not mask.any():
            continue
        tinted[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = color
        lines, _ = cv2.findContours(
            mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(int(x), int(y))
        )
        cv2.drawContours(picture, lines, -1, color, thickness)
    return cv2.addWeighted(picture, 0.75, tinted, 0.25, 0)
