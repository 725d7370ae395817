"""Small configs of all methods, which sample everything: their losses do not depend on random numbers."""

from __future__ import annotations

from pathlib import Path

import tellapart

from detectron2.config import get_cfg
from parity.common import rcnn_cfg, sample_everything

ROOT = Path(__file__).resolve().parents[1]
SIZE = (96, 128)  # (height, width) of images that need no padding in any of the models


def fcis(**options):
    cfg = rcnn_cfg("FPN", 18, narrow=True)
    tellapart.add_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME = "FCIS", "FCISROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN, cfg.MODEL.FCIS.CONV_DIMS = 40, [32]
    cfg.MODEL.FCIS.update(options)
    sample_everything(cfg)
    return cfg


def fcis_ohem():
    cfg = fcis(OHEM=True)
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    return cfg


def instance_fcn(roi_heads):
    cfg = rcnn_cfg("FPN", 18, narrow=True)
    tellapart.add_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PROPOSAL_GENERATOR.NAME = "InstanceFCN", "InstanceFCNProposals"
    cfg.MODEL.ROI_HEADS.NAME = roi_heads
    sample_everything(cfg)
    cfg.MODEL.INSTANCE_FCN.update(
        CONV_DIM=32, BATCH_SIZE_PER_IMAGE=200000, POSITIVE_FRACTION=1.0, POST_NMS_TOPK=20, WINDOW_SIZE=9,
        IN_FEATURES=["p2", "p3", "p4"], TOPK_PER_LEVEL=100,
    )  # fmt: skip
    return cfg


def mask_rcnn(roi_heads="StandardROIHeads", mask_head="MaskRCNNConvUpsampleHead"):
    cfg = rcnn_cfg("FPN", 18, narrow=True)
    tellapart.add_config(cfg)
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_MASK_HEAD.NAME, cfg.MODEL.SEMICONV.CONV_DIM = roi_heads, mask_head, 32
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 60
    sample_everything(cfg)
    return cfg


def image_masks():
    cfg = mask_rcnn("SemiConvROIHeads", "SemiConvMaskHead")
    cfg.MODEL.SEMICONV.MASK_RESOLUTION = "image"
    return cfg


def coloring():
    cfg = get_cfg()
    tellapart.add_config(cfg)
    cfg.merge_from_file(str(ROOT / "configs" / "quick" / "coloring" / "coloring_dots.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.SEMICONV.CONV_DIM, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "cpu", 16, 80
    cfg.MODEL.RESNETS.NORM = "FrozenBN"  # the statistics of batch norm differ between the processes
    return cfg


CONFIGS = {
    "FCIS": fcis,
    "FCIS, OHEM": fcis_ohem,
    "InstanceFCN": lambda: instance_fcn("PassThroughROIHeads"),
    "InstanceFCN, classifier": lambda: instance_fcn("MaskPooledROIHeads"),
    "coloring": coloring,
    "SemiConvROIHeads": lambda: mask_rcnn("SemiConvROIHeads", "SemiConvMaskHead"),
    "SemiConvMaskHead": lambda: mask_rcnn(mask_head="SemiConvMaskHead"),
    "Mask R-CNN": mask_rcnn,
}
