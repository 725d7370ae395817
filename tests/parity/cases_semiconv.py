"""Mask R-CNN with semi-convolutional operators: detections, losses and gradients for fixed weights."""

from __future__ import annotations

import torch

from .cases_models import _inputs, train_step
from .common import case, fill, rcnn_cfg, sample_everything


def _run(**heads: str) -> dict:
    import tellapart

    from detectron2.modeling import build_model

    cfg = rcnn_cfg("FPN", 18, narrow=True)
    tellapart.add_config(cfg)
    cfg.MODEL.ROI_MASK_HEAD.NAME, cfg.MODEL.SEMICONV.CONV_DIM = "SemiConvMaskHead", 32
    cfg.MODEL.ROI_HEADS.NAME = heads.get("roi_heads", cfg.MODEL.ROI_HEADS.NAME)
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 60
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE = 0.02, 20
    sample_everything(cfg)
    model, inputs, out = fill(build_model(cfg)), _inputs(), {}
    with torch.no_grad():
        model.eval()
        out["detections"] = [
            {
                "boxes": found.pred_boxes.tensor,
                "scores": found.scores,
                "classes": found.pred_classes,
                "mask_pixels": found.pred_masks.flatten(1).sum(1).tolist(),
            }
            for found in (r["instances"] for r in model(inputs))
        ]
    out.update(train_step(model, inputs))
    # a constant added to all embeddings changes nothing, so the gradient of this bias is only rounding
    parameters = [(name, p) for name, p in model.roi_heads.named_parameters() if not name.endswith("phi.bias")]
    out["gradients"] = {name: float(p.grad.double().square().sum().sqrt()) for name, p in parameters}
    return out


@case
def case_model_semiconv_R_18_FPN() -> dict:
    """The paper's model, with embeddings of the whole image on all levels."""
    return _run(roi_heads="SemiConvROIHeads")


@case
def case_model_semiconv_head_R_18_FPN() -> dict:
    """The mask head alone, in Detectron2's RoI heads."""
    return _run()
