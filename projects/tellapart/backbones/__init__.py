"""Backbones that the papers use and Detectron2 does not have."""

from .vgg import VGG16Hole, build_vgg16_hole_backbone

__all__ = ["VGG16Hole", "build_vgg16_hole_backbone"]
