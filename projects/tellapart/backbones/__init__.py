"""Backbones of the papers that Detectron2 does not have."""

from .vgg import DilatedVGG16, build_dilated_vgg16_backbone

__all__ = ["DilatedVGG16", "build_dilated_vgg16_backbone"]
