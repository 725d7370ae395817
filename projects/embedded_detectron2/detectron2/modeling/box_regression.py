"""Boxes as offsets from other boxes (Girshick et al., 2014, appendix C), and the losses on them."""

from __future__ import annotations

import math

import torch
from fvcore.nn import smooth_l1_loss
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from detectron2.layers import cat
from detectron2.structures import Boxes

_SCALE_CLAMP = math.log(1000.0 / 16)  # exp() of more than this overflows long before it means a box

_IOU_LOSSES = {"giou": generalized_box_iou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}


class Box2BoxTransform:
    """Deltas (dx, dy, dw, dh): the centre moves by dx widths and dy heights, the sides grow by exp(dw) and exp(dh).

    Args:
        weights: factors on the four deltas.
        scale_clamp: dw and dh are at most this when boxes are predicted.
    """

    def __init__(self, weights: tuple[float, float, float, float], scale_clamp: float = _SCALE_CLAMP) -> None:
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: torch.Tensor, target_boxes: torch.Tensor) -> torch.Tensor:
        """Deltas (N, 4) that take ``src_boxes`` to ``target_boxes``, both (N, 4) XYXY; a source must not be empty."""
        for boxes in (src_boxes, target_boxes):
            if not isinstance(boxes, torch.Tensor):
                raise AssertionError(f"boxes must be tensors (N, 4), got {type(boxes)}")
        src_sides, target_sides = (boxes[:, 2:] - boxes[:, :2] for boxes in (src_boxes, target_boxes))
        if not (src_sides[:, 0] > 0).all():
            raise AssertionError("Input boxes to Box2BoxTransform are not valid! A source box has no width.")
        shift = (target_boxes[:, :2] + 0.5 * target_sides) - (src_boxes[:, :2] + 0.5 * src_sides)
        growth = torch.log(target_sides / src_sides)
        return torch.cat((shift / src_sides, growth), dim=1) * shift.new_tensor(self.weights)

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes (N, k * 4) out of ``deltas`` (N, k * 4), k sets for each of ``boxes`` (N, 4); in float32 or better."""
        if deltas.dtype in (torch.float16, torch.bfloat16):
            deltas = deltas.float()
        boxes = boxes.to(deltas.dtype)
        sides = (boxes[:, 2:] - boxes[:, :2])[:, None]
        centers = boxes[:, None, :2] + 0.5 * sides
        sets = deltas.reshape(len(deltas), -1, 4) / deltas.new_tensor(self.weights)
        centers = sets[..., :2] * sides + centers
        half = 0.5 * sets[..., 2:].clamp(max=self.scale_clamp).exp() * sides
        return torch.cat((centers - half, centers + half), dim=-1).reshape(deltas.shape)


def _box_loss(
    transform: Box2BoxTransform,
    loss_type: str,
    beta: float,
    boxes: torch.Tensor,
    gt_boxes: torch.Tensor,
    pred_deltas: torch.Tensor,
) -> torch.Tensor:
    """Summed loss of ``pred_deltas`` from ``boxes`` against ``gt_boxes``, all (R, 4)."""
    if loss_type == "smooth_l1":
        return smooth_l1_loss(pred_deltas, transform.get_deltas(boxes, gt_boxes), beta, reduction="sum")
    if loss_type in _IOU_LOSSES:
        return _IOU_LOSSES[loss_type](transform.apply_deltas(pred_deltas, boxes), gt_boxes, reduction="sum")
    raise ValueError(f"Invalid box regression loss type '{loss_type}', wanted smooth_l1 or one of {list(_IOU_LOSSES)}")


def _dense_box_regression_loss(
    anchors: list[Boxes | torch.Tensor],
    box2box_transform: Box2BoxTransform,
    pred_anchor_deltas: list[torch.Tensor],
    gt_boxes: list[torch.Tensor],
    fg_mask: torch.Tensor,
    box_reg_loss_type: str = "smooth_l1",
    smooth_l1_beta: float = 0.0,
) -> torch.Tensor:
    """Summed loss over the anchors that ``fg_mask`` picks.

    Args:
        anchors: one a level, (Hi * Wi * A, 4).
        pred_anchor_deltas: one a level, (N, Hi * Wi * A, 4).
        gt_boxes: one an image, (R, 4), R = sum of Hi * Wi * A.
        fg_mask: bool (N, R).
        box_reg_loss_type: smooth_l1 (with ``smooth_l1_beta``), giou, diou or ciou.
    """
    all_anchors = cat([a.tensor if isinstance(a, Boxes) else a for a in anchors])
    image, anchor = fg_mask.nonzero(as_tuple=True)
    deltas = cat(pred_anchor_deltas, dim=1)[image, anchor]
    targets = torch.stack(list(gt_boxes))[image, anchor]
    return _box_loss(box2box_transform, box_reg_loss_type, smooth_l1_beta, all_anchors[anchor], targets, deltas)
