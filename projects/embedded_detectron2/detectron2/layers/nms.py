"""Non-maximum suppression."""

from __future__ import annotations

import torch
from torchvision.ops import boxes as box_ops
from torchvision.ops import nms

__all__ = ["batched_nms", "nms"]


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Apply NMS to each group of boxes separately.

    Args:
        boxes: (N, 4) XYXY.
        scores: (N,).
        idxs: (N,), the group of each box, e.g. its category or level.
        iou_threshold: a box is removed if its IoU with a box of higher score in the same group is larger than this.

    Returns:
        Indices of the remaining boxes, sorted by decreasing score.
    """
    if boxes.shape[-1] != 4:
        raise AssertionError(f"boxes have shape {tuple(boxes.shape)}, expected (N, 4)")
    # In float32, because float16 cannot represent coordinates that are shifted by group.
    return box_ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)
