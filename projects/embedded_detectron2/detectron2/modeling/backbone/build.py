"""The registry of backbones."""

from __future__ import annotations

from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry

from .backbone import Backbone

BACKBONE_REGISTRY = Registry("BACKBONE")  # called with (cfg, ShapeSpec); returns a Backbone


def build_backbone(cfg, input_shape: ShapeSpec | None = None) -> Backbone:
    """Build the backbone ``cfg.MODEL.BACKBONE.NAME``.

    Args:
        cfg: the config.
        input_shape: shape of the images. By default they have as many channels as ``MODEL.PIXEL_MEAN`` has numbers.
    """
    input_shape = input_shape or ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    if not isinstance(backbone, Backbone):
        raise AssertionError(f"{cfg.MODEL.BACKBONE.NAME} returned a {type(backbone).__name__}, expected a Backbone")
    return backbone
