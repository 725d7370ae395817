"""InstanceFCN: proposals, categories, losses and gradient norms with fixed weights on drawn images."""

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
    # narrow, and all windows are sampled, so that the losses do not depend on random numbers
    defaults = {"CONV_DIM": 32, "BATCH_SIZE_PER_IMAGE": 200000, "POSITIVE_FRACTION": 1.0, "POST_NMS_TOPK": 20}
    for key, value in {**defaults, **options}.items():
        setattr(cfg.MODEL.INSTANCE_FCN, key, value)
    return cfg


def _run(cfg) -> dict:
    from detectron2.modeling import build_model

    model, inputs, out = fill(build_model(cfg)), _inputs(), {}
    with torch.no_grad():
        model.eval()
        out["proposals"] = [
            {
                "size": instances.image_size,
                "boxes": instances.proposal_boxes.tensor,
                "objectness_logits": instances.objectness_logits,
                "scores": instances.scores,
                "classes": instances.pred_classes,
                "mask_pixels": instances.pred_masks.flatten(1).sum(1).tolist(),
            }
            for instances in (result["instances"] for result in model(inputs))
        ]
    out.update(train_step(model, inputs))
    heads = [model.proposal_generator, model.roi_heads]
    parameters = [named for head in heads for named in head.named_parameters()]
    out["gradients"] = {name: float(p.grad.double().square().sum().sqrt()) for name, p in parameters}
    return out


@case
def case_model_instance_fcn_R_18() -> dict:
    """One feature map of stride 16, two image scales, and proposals ranked by the product of both branches."""
    return _run(_cfg("C4", IN_FEATURES=["res4"], WINDOW_SIZE=5, TEST_SCALES=[1.0, 1.5], SCORE="product"))


@case
def case_model_instance_fcn_R_18_FPN_classifier() -> dict:
    """A feature pyramid, and a classifier of the proposals."""
    cfg = _cfg("FPN", IN_FEATURES=["p2", "p3", "p4"], WINDOW_SIZE=9, TOPK_PER_LEVEL=100)
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = "MaskPooledROIHeads", 0.02
    return _run(cfg)
