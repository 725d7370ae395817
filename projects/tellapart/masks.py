"""Masks as tensors: targets on the grids of regions, tight boxes, and filling cells outside the image."""

from __future__ import annotations

import torch
from detectron2.layers import ROIAlign
from detectron2.structures import BitMasks, Boxes, PolygonMasks
from torch import Tensor
from torch.nn import functional as F

_CHUNK_SIZE = 32  # masks converted to float at once: 300 masks of 600 x 1000 pixels would need 690 MiB
_OVERSAMPLING = 4  # polygons are rasterized on a grid finer by this factor, to measure the coverage of each cell


def crop_masks(masks: Tensor, boxes: Tensor, resolution: int) -> Tensor:
    """Compute the coverage (fraction of foreground) of each cell of a grid over each mask's box.

    Args:
        masks: bool (P, H, W).
        boxes: (P, 4) XYXY in pixels of the masks, one per mask.
        resolution: m.

    Returns:
        float32 (P, m, m), from 0 to 1.
    """
    align = ROIAlign((resolution, resolution), 1.0, 0, aligned=True)
    coverage = []
    for chunk_masks, chunk_boxes in zip(masks.split(_CHUNK_SIZE), boxes.split(_CHUNK_SIZE)):
        index = torch.arange(len(chunk_boxes), device=chunk_boxes.device, dtype=chunk_boxes.dtype)[:, None]
        rois = torch.cat((index, chunk_boxes), 1).float()
        coverage.append(align(chunk_masks[:, None].float(), rois)[:, 0])
    return torch.cat(coverage)


def mask_targets(gt_masks: BitMasks | PolygonMasks, boxes: Tensor, resolution: int, threshold: float) -> Tensor:
    """Crop ground-truth masks to boxes and return them as binary grids.

    Args:
        gt_masks: P masks in the image.
        boxes: (P, 4) XYXY in image pixels, one per mask.
        resolution: m.
        threshold: coverage from which a cell is foreground.

    Returns:
        bool (P, m, m).
    """
    if isinstance(gt_masks, PolygonMasks):
        fine_masks = gt_masks.crop_and_resize(boxes, resolution * _OVERSAMPLING).to(boxes.device)
        coverage = F.avg_pool2d(fine_masks[:, None].float(), _OVERSAMPLING)[:, 0]
    else:
        coverage = crop_masks(gt_masks.tensor, boxes, resolution)
    return coverage.view(-1, resolution, resolution) >= threshold


def tight_edges(masks: Tensor) -> Tensor:
    """Return the edges of the foreground of masks in whole pixels.

    Args:
        masks: bool (N, H, W).

    Returns:
        int64 (N, 4): first column, first row, one past the last column, one past the last row. Zeros for an empty mask.
    """
    edges = []
    for axis in (1, 2):  # reducing axis 1 tells which columns have foreground, axis 2 which rows
        used = masks.any(axis)
        edges += [used.int().argmax(1), (used.shape[1] - used.flip(1).int().argmax(1)) * used.any(1)]
    x0, x1, y0, y1 = edges
    return torch.stack((x0, y0, x1, y1), 1)


def tight_boxes(masks: Tensor) -> Boxes:
    """Return the smallest boxes around bool masks (N, H, W), XYXY in pixels. Zeros for an empty mask."""
    return Boxes(tight_edges(masks).float())


def replicate_outside(values: Tensor, valid: Tensor) -> Tensor:
    """Replace values outside a valid rectangle by the nearest valid value.

    Later interpolation then does not mix valid values with zeros at the border of the rectangle.

    Args:
        values: (N, H, W).
        valid: bool (N, H, W), a non-empty rectangle in each.

    Returns:
        (N, H, W).
    """
    left, top, right, bottom = (edge[:, None] for edge in tight_edges(valid).unbind(1))
    rows, columns = (torch.arange(length, device=values.device) for length in values.shape[1:])
    rows, columns = rows.clamp(min=top, max=bottom - 1), columns.clamp(min=left, max=right - 1)
    return values[torch.arange(len(values), device=values.device)[:, None, None], rows[:, :, None], columns[:, None]]
