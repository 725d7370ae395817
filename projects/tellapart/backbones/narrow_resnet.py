"""ResNet-18 and ResNet-34 of any width, for small models: Detectron2 only builds them with 64 channels in res2."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock

from ..errors import InputError

_NUM_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


@BACKBONE_REGISTRY.register()
def build_narrow_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build a ResNet-18 or 34 of ``cfg.MODEL.RESNETS`` with STEM_OUT_CHANNELS and RES2_OUT_CHANNELS as they are.

    Each stage has twice the channels of the one before. With 64 channels it is Detectron2's, with the same names of
    parameters.

    Raises:
        InputError: the depth is neither 18 nor 34, or OUT_FEATURES has an unknown name.
    """
    options, names = cfg.MODEL.RESNETS, ["stem", "res2", "res3", "res4", "res5"]
    if options.DEPTH not in _NUM_BLOCKS:
        raise InputError(f"MODEL.RESNETS.DEPTH is {options.DEPTH}, build_narrow_resnet_backbone expected 18 or 34")
    if not options.OUT_FEATURES or not set(options.OUT_FEATURES) <= set(names):
        raise InputError(f"MODEL.RESNETS.OUT_FEATURES is {options.OUT_FEATURES}, expected some of {names}")
    stem = BasicStem(in_channels=input_shape.channels, out_channels=options.STEM_OUT_CHANNELS, norm=options.NORM)
    stages, channels = [], options.STEM_OUT_CHANNELS
    for i, num_blocks in enumerate(_NUM_BLOCKS[options.DEPTH]):
        strides = [1 if i == 0 else 2] + [1] * (num_blocks - 1)
        sizes = {"in_channels": channels, "out_channels": options.RES2_OUT_CHANNELS * 2**i}
        stages.append(ResNet.make_stage(BasicBlock, num_blocks, stride_per_block=strides, norm=options.NORM, **sizes))
        channels = sizes["out_channels"]
    stages = stages[: max(names.index(name) for name in options.OUT_FEATURES)]
    return ResNet(stem, stages, out_features=options.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


@BACKBONE_REGISTRY.register()
def build_narrow_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build Detectron2's FPN, with level ``p6``, on :func:`build_narrow_resnet_backbone`."""
    options = cfg.MODEL.FPN
    bottom_up = build_narrow_resnet_backbone(cfg, input_shape)
    return FPN(
        bottom_up, options.IN_FEATURES, options.OUT_CHANNELS, options.NORM, LastLevelMaxPool(), options.FUSE_TYPE
    )
