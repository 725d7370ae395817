"""Parity cases of FCIS: detections, losses and gradients with fixed weights."""

from __future__ import annotations

import torch

from .cases_models import _inputs, train_step
from .common import case, fill, rcnn_cfg, sample_everything


def _cfg(kind: str, **options):
    import tellapart

    cfg = rcnn_cfg(kind, 18 if kind == "FPN" else 50, narrow=True)
    tellapart.add_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME = "FCIS", "FCISROIHeads"
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 40
    cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA = 1.0
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.001
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE = 0.3, 10
    cfg.MODEL.FCIS.CONV_DIMS = [32]
    if kind == "FPN":
        cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3", "p4", "p5"]
    else:  # as in the paper: RPN on res4, score maps on a dilated res5
        cfg.MODEL.RESNETS.OUT_FEATURES, cfg.MODEL.RESNETS.RES5_DILATION = ["res4", "res5"], 2
        cfg.MODEL.RPN.IN_FEATURES, cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res4"], ["res5"]
    sample_everything(cfg)
    for key, value in options.items():
        setattr(cfg.MODEL.FCIS, key, value)
    return cfg


def _run(cfg) -> dict:
    from detectron2.modeling import build_model

    model, inputs, out = fill(build_model(cfg)), _inputs(), {}
    with torch.no_grad():
        model.eval()
        out["detections"] = [
            {
                "size": instances.image_size,
                "box_voted": instances.pred_boxes.tensor.flatten().tolist(),  # edges of thresholded masks
                "scores": instances.scores,
                "classes": instances.pred_classes,
                "mask_voted": instances.pred_masks.flatten(1).sum(1).tolist(),
            }
            for instances in (r["instances"] for r in model(inputs))
        ]
    out.update(train_step(model, inputs))
    heads = model.roi_heads.named_parameters()
    out["gradients"] = {k: float(p.grad.double().square().sum().sqrt()) for k, p in heads}
    return out


@case
def case_model_fcis_R_50() -> dict:
    return _run(_cfg("DC5"))


@case
def case_model_fcis_R_18_FPN_pool() -> dict:
    return _run(_cfg("FPN", SAMPLING="pool", GRID_SIZE=3, RESOLUTION=10))


@case
def case_model_fcis_R_50_release() -> dict:
    """The stem, anchors, pooling and training regions of the authors' code."""
    cfg = _cfg("DC5", SAMPLING="pool")
    cfg.MODEL.BACKBONE.NAME = "build_fcis_release_resnet_backbone"
    cfg.MODEL.ANCHOR_GENERATOR.NAME, cfg.MODEL.ANCHOR_GENERATOR.OFFSET = "WholeSideAnchorGenerator", 0.5
    cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE, cfg.MODEL.RPN.BOUNDARY_THRESH = 16, 0
    cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS, cfg.MODEL.ROI_HEADS.IOU_LABELS = [0.1, 0.5], [-1, 0, 1]
    return _run(cfg)


@case
def case_model_fcis_R_50_ohem() -> dict:
    """OHEM selects regions by their loss, so nothing is random although not all regions are trained on."""
    cfg = _cfg("DC5", OHEM=True)
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    return _run(cfg)
