"""Masks of COCO annotations: as run-length encoding (RLE) and as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask


def annotation_to_rle(annotation: dict, size: tuple[int, int]) -> dict:
    """Return the mask of a COCO annotation or prediction as compressed RLE.

    Args:
        annotation: with ``segmentation`` (polygons, RLE or compressed RLE). Without one, its ``bbox`` (XYWH in pixels)
            is the mask.
        size: (height, width) of the image.

    Returns:
        ``{"size": [height, width], "counts": ...}`` of pycocotools. An annotation's own compressed RLE is not changed.
    """
    segmentation = annotation.get("segmentation")
    if not segmentation:
        x, y, width, height = annotation["bbox"]
        segmentation = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size)
    return segmentation


def mask_areas(rles: Sequence[dict]) -> np.ndarray:
    """Return the pixels of N masks, int64 (N,).

    They are counted one by one, because pycocotools 2.0.11 fails for a list of more than 255 masks.
    """
    return np.array([int(coco_mask.area(rle)) for rle in rles], dtype=np.int64)


def decode_gt_masks(record: dict) -> np.ndarray:
    """Decode the ground-truth masks of an image, without crowd annotations.

    Args:
        record: Detectron2's dataset dict with ``height``, ``width`` and ``annotations``.

    Returns:
        bool (G, H, W), in the order of the annotations.
    """
    size = record["height"], record["width"]
    annotations = [annotation for annotation in record["annotations"] if not annotation.get("iscrowd")]
    rles = [annotation_to_rle(annotation, size) for annotation in annotations]
    return coco_mask.decode(rles).astype(bool).transpose(2, 0, 1) if rles else np.zeros((0, *size), bool)
