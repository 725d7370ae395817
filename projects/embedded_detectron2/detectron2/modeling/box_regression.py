"""Boxes as offsets from other boxes (Girshick et al., 2014, appendix C), and the losses on them."""

from __future__ import annotations

import math

import torch
from fvcore.nn import smooth_l1_loss

from detectron2._missing import not_included
from detectron2.layers import cat
from detectron2.structures import Boxes

_SCALE_CLAMP = math.log(1000.0 / 16)  # keeps exp() of a wild prediction finite


class Box2BoxTransform:
    """Deltas (dx, dy, dw, dh): the centre moves by dx widths and dy heights, the sides grow by exp(dw) and exp(dh).

    ``weights`` are factors on the four; dw and dh are at most ``scale_clamp`` when boxes are predicted.
    """

    def __init__(self, weights: tuple[float, float, float, float], scale_clamp: float = _SCALE_CLAMP) -> None:
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: torch.Tensor, target_boxes: torch.Tensor) -> torch.Tensor:
        """Deltas (N, 4) that take ``src_boxes`` to ``target_boxes``, both (N, 4) XYXY; a source must not be empty."""
        src_sides, target_sides = (boxes[:, 2:] - boxes[:, :2] for boxes in (src_boxes, target_boxes))
        if not (src_sides[:, 0] > 0).all():
            raise AssertionError("Input boxes to Box2BoxTransform are not valid! A source box has no width.")
        shift = (target_boxes[:, :2] + 0.5 * target_sides) - (src_boxes[:, :2] + 0.5 * src_sides)
        growth = torch.log(target_sides / src_sides)
        weights = shift.new_tensor(self.weights)
        # weighted before it is divided: so the last bit is Detectron2's, and with it a run's curve
        return torch.cat((weights[:2] * shift / src_sides, weights[2:] * growth), dim=1)

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes (N, k * 4), float32, out of ``deltas`` (N, k * 4), k sets for each of ``boxes`` (N, 4)."""
        deltas = deltas.float()  # half precision cannot hold coordinates of large images
        boxes = boxes.to(deltas.dtype)
        sides = (boxes[:, 2:] - boxes[:, :2])[:, None]
        sets = deltas.unflatten(1, (deltas.shape[1] // 4, 4)) / deltas.new_tensor(self.weights)
        centers = sets[..., :2] * sides + (boxes[:, None, :2] + 0.5 * sides)
        half = 0.5 * sets[..., 2:].clamp(max=self.scale_clamp).exp() * sides
        return torch.cat((centers - half, centers + half), dim=-1).flatten(1)

    def loss(self, loss_type: str, beta: float, boxes, gt_boxes, pred_deltas: torch.Tensor) -> torch.Tensor:
        """Summed loss, smooth_l1 (with ``beta``) or giou, of ``pred_deltas`` from ``boxes`` to ``gt_boxes``, (R, 4)."""
        if loss_type in ("giou", "diou", "ciou"):
            raise not_included(f"BBOX_REG_LOSS_TYPE {loss_type}")
        if loss_type != "smooth_l1":
            raise ValueError(f"BBOX_REG_LOSS_TYPE is {loss_type!r}, expected 'smooth_l1'")
        return smooth_l1_loss(pred_deltas, self.get_deltas(boxes, gt_boxes), beta, reduction="sum")


def _dense_box_regression_loss(
    anchors: list[Boxes | torch.Tensor], box2box_transform: Box2BoxTransform, pred_anchor_deltas: list[torch.Tensor],
    gt_boxes: list[torch.Tensor], fg_mask: torch.Tensor, box_reg_loss_type="smooth_l1", smooth_l1_beta: float = 0.0,
) -> torch.Tensor:  # fmt: skip
    """Summed loss over the anchors that ``fg_mask`` picks.

    Args:
        anchors: one tensor a level, (Hi * Wi * A, 4).
        pred_anchor_deltas: one a level, (N, Hi * Wi * A, 4).
        gt_boxes: one an image, (R, 4), R = sum of Hi * Wi * A.
        fg_mask: bool (N, R).
        box_reg_loss_type, smooth_l1_beta: see ``Box2BoxTransform.loss``.
    """
    all_anchors = cat([a.tensor if isinstance(a, Boxes) else a for a in anchors])
    image, anchor = fg_mask.nonzero(as_tuple=True)
    deltas, targets = cat(pred_anchor_deltas, dim=1)[image, anchor], torch.stack(gt_boxes)[image, anchor]
    return box2box_transform.loss(box_reg_loss_type, smooth_l1_beta, all_anchors[anchor], targets, deltas)
