"""Backbones of the papers and of small models that Detectron2 does not have."""

from .narrow_resnet import build_narrow_resnet_backbone, build_narrow_resnet_fpn_backbone
from .release_resnet import UnpaddedPoolStem, build_fcis_release_resnet_backbone
from .vgg import DilatedVGG16, build_dilated_vgg16_backbone

__all__ = [
    "DilatedVGG16",
    "UnpaddedPoolStem",
    "build_dilated_vgg16_backbone",
    "build_fcis_release_resnet_backbone",
    "build_narrow_resnet_backbone",
    "build_narrow_resnet_fpn_backbone",
]
