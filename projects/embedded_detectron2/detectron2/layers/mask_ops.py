"""Pasting of masks into images."""

from __future__ import annotations

import torch

# Number of mask pixels that are computed at a time: 256 MiB of float32.
_CHUNK_ELEMENTS = 2**26


def _interpolation(low: torch.Tensor, high: torch.Tensor, length: int, size: int) -> torch.Tensor:
    """Compute bilinear weights for one axis.

    Args:
        low, high: (N,), sides of the boxes in pixels.
        length: number of pixels of the image.
        size: number of cells of the mask between ``low`` and ``high``.

    Returns:
        (N, length, size), the weight of each cell at each pixel center.
    """
    centers = torch.arange(length, device=low.device, dtype=low.dtype) + 0.5
    position = (centers[None] - low[:, None]) / (high - low)[:, None] * size - 0.5
    cells = torch.arange(size, device=low.device, dtype=low.dtype)
    weights = (1 - (position[..., None] - cells).abs()).clamp(min=0)
    # An empty box contains no pixels.
    return torch.where((high > low)[:, None, None], weights, torch.zeros_like(weights))


def paste_masks_in_image(
    masks: torch.Tensor, boxes, image_shape: tuple[int, int], threshold: float = 0.5
) -> torch.Tensor:
    """Resample masks from their boxes to the full image with bilinear interpolation.

    The interpolation is separable, so it is computed by two batched matrix products.

    Args:
        masks: (N, M, M), values in [0, 1], relative to the boxes.
        boxes: ``Boxes`` or tensor (N, 4), XYXY in image pixels.
        image_shape: (height, width) in pixels.
        threshold: pixels with at least this value belong to the mask. Negative: return values 0 to 255 instead.

    Returns:
        (N, height, width), bool. As in Detectron2 it is uint8 if the threshold is negative or N is 0.
    """
    if masks.shape[-1] != masks.shape[-2]:
        raise AssertionError(f"masks have shape {tuple(masks.shape)}, expected squares")
    boxes = getattr(boxes, "tensor", boxes).to(device=masks.device, dtype=torch.float32)
    if len(boxes) != len(masks):
        raise AssertionError(f"got {len(boxes)} boxes for {len(masks)} masks")
    height, width = (int(side) for side in image_shape)
    dtype = torch.bool if threshold >= 0 and len(masks) else torch.uint8
    pasted = torch.zeros(len(masks), height, width, dtype=dtype, device=masks.device)
    chunk = max(1, _CHUNK_ELEMENTS // max(1, height * width))
    for start in range(0, len(masks), chunk):
        part, box = masks[start : start + chunk].float(), boxes[start : start + chunk]
        rows = _interpolation(box[:, 1], box[:, 3], height, part.shape[1])
        columns = _interpolation(box[:, 0], box[:, 2], width, part.shape[2])
        soft = rows @ part @ columns.transpose(1, 2)
        pasted[start : start + chunk] = soft >= threshold if threshold >= 0 else (soft * 255).to(torch.uint8)
    return pasted
