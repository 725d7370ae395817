"""Cases on InstanceFCN: proposals, categories, losses and gradients on fixed weights and drawn images."""

from __future__ import annotations

import torch

from .cases_models import _inputs, train_step
from .common import case, fill, rcnn_cfg, sample_everything


def _cfg(kind: str, **options):
    import tellapart

    cfg = rcnn_cfg(kind, 18, narrow=True)
    tellapart.add_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PROPOSAL_GENERATOR.NAME = "InstanceFCN", "InstanceFCNProposals"
    cfg.MODEL.ROI_HEADS.NAME = "PassThroughROIHeads"
    sample_everything(cfg)
    made = {"CONV_DIM": 32, "BATCH_SIZE_PER_IMAGE": 200000, "POSITIVE_FRACTION": 1.0, "POST_NMS_TOPK": 20}
    for key, value in {**made, **options}.items():
        setattr(cfg.MODEL.INSTANCE_FCN, key, value)
    return cfg


def _run(cfg) -> dict:
    from detectron2.modeling import build_model

    model, inputs, out = fill(build_model(cfg)), _inputs(), {}
    with torch.no_grad():
        model.eval()
        out["proposals"] = [
            {
                "size": found.image_size,
                "boxes": found.proposal_boxes.tensor,
                "objectness_logits": found.objectness_logits,
                "scores": found.scores,
                "classes": found.pred_classes,
                "mask_pixels": found.pred_masks.flatten(1).sum(1).tolist(),
            }
            for found in (r["instances"] for r in model(inputs))
        ]
    out.update(train_step(model, inputs))
    parts = [model.proposal_generator, model.roi_heads]
    named = [(name, p) for part in parts for name, p in part.named_parameters()]
    out["gradients"] = {name: float(p.grad.double().square().sum().sqrt()) for name, p in named}
    return out


@case
def case_model_instance_fcn_R_18() -> dict:
    """One map of stride 16, two scales, both branches multiplied."""
    return _run(_cfg("C4", IN_FEATURES=["res4"], WINDOW_SIZE=5, TEST_SCALES=[1.0, 1.5], SCORE="product"))


@case
def case_model_instance_fcn_R_18_FPN_classifier() -> dict:
    """A pyramid, and the categories of the proposals."""
    cfg = _cfg("FPN", IN_FEATURES=["p2", "p3", "p4"], WINDOW_SIZE=9, TOPK_PER_LEVEL=100)
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = "MaskPooledROIHeads", 0.02
    return _run(cfg)
