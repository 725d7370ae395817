"""Numbers that describe a data set: objects per image, sizes, crowding, overlap.

Sizes of boxes and images are of all objects. What needs masks is computed on a sample of the images, evenly spread over
the data set, so that it takes seconds for any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask

from ..errors import InputError
from .annotations import annotation_to_rle, mask_areas
from .image_reading import ImageReader
from .pixel_scaling import PERCENTILES
from .reading_options import ReadingOptions

_MAX_IMAGES = 500  # whose masks are measured; COCO's take about two seconds
_MAX_OBJECTS = 20_000
_MAX_PICTURES = 24  # whose gray levels are measured


@dataclass(frozen=True)
class Objects:
    """The objects of a data set as arrays, without crowds, in the order of the records.

    Attributes:
        image_sizes: int (N, 2), height and width of each image.
        image_index: int (G,), the image of each object.
        sides: float (G, 2), width and height of each object's box, pixels.
        categories: int (G,), contiguous category ids.
        num_crowds: annotations with ``iscrowd``, which are not objects.
    """

    image_sizes: np.ndarray
    image_index: np.ndarray
    sides: np.ndarray
    categories: np.ndarray
    num_crowds: int

    def __len__(self) -> int:
        return len(self.image_index)

    @property
    def per_image(self) -> np.ndarray:
        """The number of objects of each image, int (N,)."""
        return np.bincount(self.image_index, minlength=len(self.image_sizes))

    @classmethod
    def from_records(cls, records: Sequence[dict]) -> Objects:
        """Collect the objects of Detectron2's dataset dicts with boxes in XYWH or XYXY."""
        boxes, is_xyxy, categories, counts, num_crowds = [], [], [], [], 0
        for record in records:
            before = len(boxes)
            for annotation in record.get("annotations", ()):
                if annotation.get("iscrowd"):
                    num_crowds += 1
                    continue
                boxes.append(annotation["bbox"])
                is_xyxy.append(annotation["bbox_mode"] == BoxMode.XYXY_ABS)
                categories.append(annotation["category_id"])
            counts.append(len(boxes) - before)
        array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        sides = array[:, 2:] - np.where(np.array(is_xyxy, dtype=bool)[:, None], array[:, :2], 0.0)
        sizes = np.array([(record["height"], record["width"]) for record in records], dtype=np.int64).reshape(-1, 2)
        image_index = np.repeat(np.arange(len(records)), counts)
        return cls(sizes, image_index, sides, np.array(categories, dtype=np.int64), num_crowds)


@dataclass(frozen=True)
class MaskMeasurements:
    """Measurements of the masks of a sample of images.

    Attributes:
        num_images: images in the sample.
        areas: float (S,), pixels of each mask, without empty ones.
        fill: float (S,), ``areas`` divided by the area of the mask's box. Thin diagonal objects have low values.
        crowding: float (S,), the share of the object pixels in the mask's box that only other objects have.
        overlap: pixels that masks have in common, as a share of all object pixels.
    """

    num_images: int
    areas: np.ndarray
    fill: np.ndarray
    crowding: np.ndarray
    overlap: float


def evenly_spread(length: int, number: int) -> list[int]:
    """Return at most ``number`` different indices below ``length``, evenly spread, including the first and the last."""
    return np.unique(np.linspace(0, length - 1, min(number, length)).round().astype(int)).tolist() if length else []


def measure_masks(
    records: Sequence[dict], max_images: int = _MAX_IMAGES, max_objects: int = _MAX_OBJECTS
) -> MaskMeasurements:
    """Measure the masks of a sample of the images that have objects.

    Args:
        records: Detectron2's dataset dicts with valid segmentations. An object without one counts as its box (XYWH).
        max_images: the largest number of images in the sample.
        max_objects: the largest number of objects, roughly; at least one image is measured.
    """
    with_objects = [i for i, record in enumerate(records) if record.get("annotations")]
    num_objects = sum(len(records[i]["annotations"]) for i in with_objects)
    if num_objects > max_objects:
        max_images = min(max_images, max(1, max_objects * len(with_objects) // num_objects))
    sample = [records[with_objects[i]] for i in evenly_spread(len(with_objects), max_images)]
    areas, fill, crowding = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    num_union = 0
    for record in sample:
        size = record["height"], record["width"]
        annotations = (annotation for annotation in record["annotations"] if not annotation.get("iscrowd"))
        rles = [annotation_to_rle(annotation, size) for annotation in annotations]
        rles = [rle for rle in rles if coco_mask.area(rle)]
        if not rles:
            continue
        union = coco_mask.merge(rles)
        num_union += int(coco_mask.area(union))
        areas.append(mask_areas(rles).astype(np.float64))
        boxes = coco_mask.toBbox(rles)
        fill.append(areas[-1] / boxes[:, 2:].prod(1))
        crowding.append(_other_fractions(union, boxes, areas[-1], size))
    all_areas = np.concatenate(areas)
    overlap = float(all_areas.sum() / num_union - 1.0) if num_union else 0.0
    return MaskMeasurements(len(sample), all_areas, np.concatenate(fill), np.concatenate(crowding), overlap)


def measure_gray_spans(records: Sequence[dict], max_images: int = _MAX_PICTURES) -> np.ndarray:
    """Measure the range of gray levels of a sample of the images.

    Args:
        records: Detectron2's dataset dicts.
        max_images: the largest number of images in the sample.

    Returns:
        The 99.9 minus the 0.1 percentile of the brightest channel, float64 (N,) from 0 to 255, of the images in the
        sample that have 8 bits and can be read.
    """
    reader, spans = ImageReader(ReadingOptions(scaling="none")), []
    for i in evenly_spread(len(records), max_images):
        try:
            pixels = reader(records[i]["file_name"])
        except (OSError, InputError):
            continue  # training names it
        if pixels.dtype == np.uint8:
            gray = pixels if pixels.ndim == 2 else pixels.max(2)
            spans.append(float(np.subtract(*np.percentile(gray, PERCENTILES[::-1]))))
    return np.array(spans)


def _other_fractions(union: dict, boxes: np.ndarray, areas: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the share of the object pixels in each mask's tight box that only other objects have.

    Args:
        union: RLE of all objects of the image.
        boxes: (N, 4) XYWH, the tight boxes of N masks, in whole pixels.
        areas: (N,), their pixels.
        size: (height, width) of the image.
    """
    box_rles = coco_mask.frPyObjects(boxes, *size)
    # With a crowd as ground truth, "IoU" is the intersection divided by the area of the detection: here of the box.
    objects_in_box = coco_mask.iou(box_rles, [union], [1])[:, 0] * mask_areas(box_rles)
    return 1.0 - areas / objects_in_box


def report(objects: Objects, classes: Sequence[str], masks: MaskMeasurements | None) -> list[str]:
    """Return lines that describe a data set.

    Args:
        objects: of the data set.
        classes: names in the order of the contiguous ids.
        masks: measurements of its masks, None if it has none.
    """
    counts = objects.per_image
    lines = [f"images: {len(counts)}, {int((counts == 0).sum())} of them without objects; {_image_sizes(objects)}"]
    crowds = f", and {objects.num_crowds} crowd annotations" if objects.num_crowds else ""
    if not len(objects):
        return [*lines, f"objects: 0{crowds}"]
    lines.append(
        f"objects: {len(objects)}{crowds}; per image {counts.min()} to {counts.max()}, median {np.median(counts):g}"
    )
    per_class = np.bincount(objects.categories, minlength=len(classes))
    order = np.argsort(-per_class, kind="stable")
    shown = ", ".join(f"{classes[i]} {per_class[i]}" for i in order[:5])
    lines.append(f"categories: {len(classes)}; {shown}{', ...' if len(classes) > 5 else ''}")
    never = [classes[i] for i in order if not per_class[i]]
    if never:
        lines.append(f"categories without objects: {len(never)}; {', '.join(never[:5])}{', ...' if never[5:] else ''}")
    lines.append(f"shorter sides of boxes: {_percentiles(objects.sides.min(1))} px")
    lines.append(f"longer sides of boxes: {_percentiles(objects.sides.max(1))} px")
    if masks is None or not len(masks.areas):
        return [*lines, "masks: none"]
    sample = f"{len(masks.areas)} masks of {masks.num_images} images"
    if masks.num_images < (counts > 0).sum():
        sample += ", a sample"
    lines.append(f"square roots of mask areas: {_percentiles(np.sqrt(masks.areas))} px ({sample})")
    lines.append(
        f"crowding: {100 * masks.crowding.mean():.1f} % of the object pixels in an object's box are others', "
        f"90th percentile {100 * np.percentile(masks.crowding, 90):.1f} % ({sample})"
    )
    lines.append(f"overlap: masks share {100 * masks.overlap:.1f} % of the object pixels ({sample})")
    return lines


def _percentiles(values: np.ndarray) -> str:
    low, median, high = np.percentile(values, [5, 50, 95])
    return f"median {median:.0f}, 5th to 95th percentile {low:.0f} to {high:.0f}"


def _image_sizes(objects: Objects) -> str:
    """Return the size of the images, or the range of sizes, as width x height."""
    sizes = objects.image_sizes
    if (sizes == sizes[0]).all():
        return f"all {sizes[0, 1]} x {sizes[0, 0]} px"
    median = np.median(sizes, 0)
    low, high = sizes.min(0), sizes.max(0)
    return f"{low[1]} to {high[1]} px wide, {low[0]} to {high[0]} px high, median {median[1]:.0f} x {median[0]:.0f}"
