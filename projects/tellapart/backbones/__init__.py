"""Backbones of the papers that Detectron2 does not have."""

from .release_resnet import UnpaddedPoolStem, build_fcis_release_resnet_backbone
from .vgg import DilatedVGG16, build_dilated_vgg16_backbone

__all__ = ["DilatedVGG16", "UnpaddedPoolStem", "build_dilated_vgg16_backbone", "build_fcis_release_resnet_backbone"]
