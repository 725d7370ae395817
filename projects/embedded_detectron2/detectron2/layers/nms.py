"""Non-maximum suppression."""

from __future__ import annotations

import torch
from torchvision.ops import boxes as box_ops
from torchvision.ops import nms

__all__ = ["batched_nms", "nms"]


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """NMS within each group.

    Args:
        boxes: (N, 4) XYXY.
        scores: (N,).
        idxs: (N,) the group (category or level) of each box.
        iou_threshold: boxes of one group that overlap a better one by more are dropped.

    Returns:
        Indices of those kept, best score first.
    """
    if boxes.shape[-1] != 4:
        raise AssertionError(f"boxes must have the shape (N, 4), got {tuple(boxes.shape)}")
    # half precision cannot hold coordinates shifted by group
    return box_ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)
