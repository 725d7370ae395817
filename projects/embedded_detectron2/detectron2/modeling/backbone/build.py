"""Backbones by their name in the config."""

from __future__ import annotations

from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry

from .backbone import Backbone

BACKBONE_REGISTRY = Registry("BACKBONE")  # (cfg, ShapeSpec) -> Backbone


def build_backbone(cfg, input_shape: ShapeSpec | None = None) -> Backbone:
    """The backbone ``cfg.MODEL.BACKBONE.NAME``; without ``input_shape`` it takes as many channels as PIXEL_MEAN has."""
    input_shape = input_shape or ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    if not isinstance(backbone, Backbone):
        raise AssertionError(f"{cfg.MODEL.BACKBONE.NAME} gave a {type(backbone).__name__}, wanted a Backbone")
    return backbone
