"""The mask head alone in a stock config: Cascade Mask R-CNN of the model zoo, which only the real Detectron2 has."""

from __future__ import annotations

from tellapart import add_config

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from made_images import batch, losses_of


def test_trains_20_iterations():
    pytest.importorskip("detectron2.modeling.roi_heads.cascade_rcnn")  # only in the real Detectron2
    from detectron2 import model_zoo

    cfg = model_zoo.get_config("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", trained=False)
    add_config(cfg)
    cfg.MODEL.ROI_MASK_HEAD.NAME = "SemiConvMaskHead"
    # smaller, for a CPU; from random weights, so a norm that learns
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.MODEL.BACKBONE.FREEZE_AT = "cpu", "", 0
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP, cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 16, 16
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.MODEL.RESNETS.NORM = 64, "BN"
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM, cfg.MODEL.ROI_MASK_HEAD.CONV_DIM, cfg.MODEL.FPN.OUT_CHANNELS = 64, 32, 32
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE, cfg.SOLVER.BASE_LR = 32, 0.01
    torch.manual_seed(0)
    net = build_model(cfg)
    optimizer, curve = build_optimizer(cfg, net), []
    for _ in range(20):
        losses = losses_of(net, batch())
        assert {"loss_mask", "loss_kernel", "loss_cls_stage2"} <= set(losses)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        curve.append((losses["loss_mask"] + losses["loss_kernel"]).item())
    assert all(torch.isfinite(torch.tensor(curve))) and sum(curve[-5:]) < sum(curve[:5])
    with torch.no_grad():
        found = net.eval()(batch())[0]["instances"]
    assert found.pred_masks.shape == (len(found), 194, 111)
