"""Pasting of small masks into images."""

from __future__ import annotations

import torch

# elements of pasted masks held at once as float32: 256 MiB
_CHUNK_ELEMENTS = 2**26


def _interpolation(low: torch.Tensor, high: torch.Tensor, length: int, size: int) -> torch.Tensor:
    """Bilinear weights (N, length, size): what each of ``size`` cells of [low, high] gives to each pixel centre."""
    centres = torch.arange(length, device=low.device, dtype=low.dtype) + 0.5
    position = (centres[None] - low[:, None]) / (high - low)[:, None] * size - 0.5
    cells = torch.arange(size, device=low.device, dtype=low.dtype)
    weights = (1 - (position[..., None] - cells).abs()).clamp(min=0)
    # a box without width has no pixel inside
    return torch.where((high > low)[:, None, None], weights, torch.zeros_like(weights))


def paste_masks_in_image(
    masks: torch.Tensor, boxes, image_shape: tuple[int, int], threshold: float = 0.5
) -> torch.Tensor:
    """Resample masks from the frame of their boxes to full images.

    Bilinear interpolation is separable, so it is two batched matrix products instead of a sampling grid an ROI.

    Args:
        masks: (N, M, M), values in 0..1.
        boxes: ``Boxes`` or tensor (N, 4), XYXY image pixels.
        image_shape: (height, width) in pixels.
        threshold: where the pasted mask is cut; negative gives uint8 values 0..255 instead.

    Returns:
        (N, height, width), bool, or uint8 for a negative threshold and, as in the real one, for no masks at all.
    """
    if masks.shape[-1] != masks.shape[-2]:
        raise AssertionError(f"only square masks can be pasted, got {tuple(masks.shape)}")
    boxes = getattr(boxes, "tensor", boxes).to(device=masks.device, dtype=torch.float32)
    if len(boxes) != len(masks):
        raise AssertionError(f"{len(boxes)} boxes for {len(masks)} masks")
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
