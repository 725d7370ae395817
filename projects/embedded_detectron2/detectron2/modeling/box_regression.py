"""Box regression: deltas between boxes (Girshick et al., 2014, appendix C), and their loss."""

from __future__ import annotations

import math

import torch
from fvcore.nn import smooth_l1_loss

from detectron2._missing import not_included
from detectron2.layers import cat
from detectron2.structures import Boxes

_SCALE_CLAMP = math.log(1000.0 / 16)  # keeps exp() of large predictions finite


class Box2BoxTransform:
    """Convert between boxes and deltas (dx, dy, dw, dh) to source boxes.

    The center moves by dx widths and dy heights of the source box. Width and height grow by exp(dw) and exp(dh).

    Args:
        weights: factors on dx, dy, dw and dh.
        scale_clamp: upper limit of dw and dh when deltas are applied.
    """

    def __init__(self, weights: tuple[float, float, float, float], scale_clamp: float = _SCALE_CLAMP) -> None:
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: torch.Tensor, target_boxes: torch.Tensor) -> torch.Tensor:
        """Return the deltas (N, 4) from ``src_boxes`` to ``target_boxes``, both (N, 4) XYXY.

        Raises:
            AssertionError: a source box has no width.
        """
        src_sides, target_sides = (boxes[:, 2:] - boxes[:, :2] for boxes in (src_boxes, target_boxes))
        if not (src_sides[:, 0] > 0).all():
            raise AssertionError("Box2BoxTransform.get_deltas: a source box has no width")
        shift = (target_boxes[:, :2] + 0.5 * target_sides) - (src_boxes[:, :2] + 0.5 * src_sides)
        growth = torch.log(target_sides / src_sides)
        weights = shift.new_tensor(self.weights)
        # Multiplying before dividing gives the same bits as Detectron2, and so the same training curves.
        return torch.cat((weights[:2] * shift / src_sides, weights[2:] * growth), dim=1)

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Apply k sets of deltas per box.

        Args:
            deltas: (N, k * 4).
            boxes: the source boxes, (N, 4) XYXY.

        Returns:
            (N, k * 4), float32.
        """
        deltas = deltas.float()  # float16 cannot represent coordinates of large images
        boxes = boxes.to(deltas.dtype)
        sides = (boxes[:, 2:] - boxes[:, :2])[:, None]
        deltas = deltas.unflatten(1, (deltas.shape[1] // 4, 4)) / deltas.new_tensor(self.weights)
        centers = deltas[..., :2] * sides + (boxes[:, None, :2] + 0.5 * sides)
        half = 0.5 * deltas[..., 2:].clamp(max=self.scale_clamp).exp() * sides
        return torch.cat((centers - half, centers + half), dim=-1).flatten(1)

    def loss(self, loss_type: str, beta: float, boxes, gt_boxes, pred_deltas: torch.Tensor) -> torch.Tensor:
        """Return the summed loss of predicted deltas.

        Args:
            loss_type: must be "smooth_l1".
            beta: the error at which the loss changes from L2 to L1.
            boxes, gt_boxes: (R, 4). The target is the delta from a box to its ground truth box.
            pred_deltas: (R, 4).
        """
        if loss_type in ("giou", "diou", "ciou"):
            raise not_included(f"BBOX_REG_LOSS_TYPE {loss_type}")
        if loss_type != "smooth_l1":
            raise ValueError(f"BBOX_REG_LOSS_TYPE is {loss_type!r}, expected 'smooth_l1'")
        return smooth_l1_loss(pred_deltas, self.get_deltas(boxes, gt_boxes), beta, reduction="sum")


def _dense_box_regression_loss(
    anchors: list[Boxes | torch.Tensor], box2box_transform: Box2BoxTransform, pred_anchor_deltas: list[torch.Tensor],
    gt_boxes: list[torch.Tensor], fg_mask: torch.Tensor, box_reg_loss_type="smooth_l1", smooth_l1_beta: float = 0.0,
) -> torch.Tensor:  # fmt: skip
    """Return the summed loss over the foreground anchors.

    Args:
        anchors: one tensor (Hi * Wi * A, 4) per level.
        box2box_transform: defines the deltas.
        pred_anchor_deltas: one tensor (N, Hi * Wi * A, 4) per level.
        gt_boxes: one tensor (R, 4) per image, where R is the sum of Hi * Wi * A over the levels.
        fg_mask: bool (N, R), the foreground anchors.
        box_reg_loss_type, smooth_l1_beta: see ``Box2BoxTransform.loss``.
    """
    all_anchors = cat([a.tensor if isinstance(a, Boxes) else a for a in anchors])
    image, anchor = fg_mask.nonzero(as_tuple=True)
    deltas, targets = cat(pred_anchor_deltas, dim=1)[image, anchor], torch.stack(gt_boxes)[image, anchor]
    return box2box_transform.loss(box_reg_loss_type, smooth_l1_beta, all_anchors[anchor], targets, deltas)
