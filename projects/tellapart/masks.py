"""Masks: on the grids that the position-sensitive methods learn, and the tight boxes around them."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.layers import ROIAlign
from detectron2.structures import BitMasks, Boxes, PolygonMasks
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

_AT_ONCE = 32  # masks that are numbers at the same time: 300 of 600 x 1000 pixels would be 690 MiB
_FINER = 4  # polygons are drawn on a grid finer by this, so that a cell's share of foreground is known


def crop_masks(masks: Tensor, boxes: Tensor, resolution: int) -> Tensor:
    """The share of foreground in each cell of a grid over each mask's box.

    Args:
        masks: bool (P, H, W).
        boxes: (P, 4) XYXY in pixels of the masks.
        resolution: m.

    Returns:
        float32 (P, m, m).
    """
    align = ROIAlign((resolution, resolution), 1.0, 0, aligned=True)
    shares = []
    for some, where in zip(masks.split(_AT_ONCE), boxes.split(_AT_ONCE)):
        index = torch.arange(len(where), device=where.device, dtype=where.dtype)[:, None]
        shares.append(align(some[:, None].float(), torch.cat((index, where), 1).float())[:, 0])
    return torch.cat(shares)


def mask_targets(gt_masks: BitMasks | PolygonMasks, boxes: Tensor, resolution: int, threshold: float) -> Tensor:
    """Ground-truth masks cut to boxes, as grids.

    Args:
        gt_masks: P masks in the image.
        boxes: (P, 4) XYXY in image pixels, one a mask.
        resolution: m.
        threshold: a cell is foreground if at least this share of it is.

    Returns:
        bool (P, m, m).
    """
    if isinstance(gt_masks, PolygonMasks):
        fine = gt_masks.crop_and_resize(boxes, resolution * _FINER).to(boxes.device)
        share = F.avg_pool2d(fine[:, None].float(), _FINER)[:, 0]
    else:
        share = crop_masks(gt_masks.tensor, boxes, resolution)
    return share.view(-1, resolution, resolution) >= threshold


def tight_edges(masks: Tensor) -> Tensor:
    """Around bool masks (N, H, W): first column, first row, one past the last column and row, int64 (N, 4); around an
    empty one zeros."""
    edges = []
    for axis in (1, 2):  # over the rows: which columns have foreground; then the other way round
        used = masks.any(axis)
        edges += [used.int().argmax(1), (used.shape[1] - used.flip(1).int().argmax(1)) * used.any(1)]
    x0, x1, y0, y1 = edges
    return torch.stack((x0, y0, x1, y1), 1)


def replicate_outside(values: Tensor, inside: Tensor) -> Tensor:
    """Values (N, H, W) where ``inside``, a rectangle in each (bool, none empty); elsewhere the nearest of these: next
    to zeros, what is interpolated would fall off before the edge."""
    left, top, right, bottom = (edge[:, None] for edge in tight_edges(inside).unbind(1))
    rows, columns = (torch.arange(length, device=values.device) for length in values.shape[1:])
    rows, columns = rows.clamp(min=top, max=bottom - 1), columns.clamp(min=left, max=right - 1)
    return values[torch.arange(len(values), device=values.device)[:, None, None], rows[:, :, None], columns[:, None]]


def tight_boxes(masks: Tensor) -> Boxes:
    """The smallest boxes around bool masks (N, H, W), XYXY in their pixels; zeros around an empty one."""
    return Boxes(tight_edges(masks).float())


def true_masks(record: dict) -> np.ndarray:
    """The masks of a Detectron2 data set's dict without crowds, bool (G, H, W)."""
    size = record["height"], record["width"]
    rles = [to_rle(annotation, size) for annotation in record["annotations"] if not annotation.get("iscrowd")]
    return coco_mask.decode(rles).astype(bool).transpose(2, 0, 1) if rles else np.zeros((0, *size), bool)


def to_rle(annotation: dict, size: tuple[int, int]) -> dict:
    """Compressed RLE of a COCO annotation or prediction in an image of this size (height, width); of its box (XYWH)
    if it has no mask."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        x, y, width, height = annotation["bbox"]
        segmentation = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size)
    return segmentation
