"""Backbones: networks that compute feature maps from images."""
# ruff: noqa: F401 (re-exports)

from .backbone import Backbone
from .build import BACKBONE_REGISTRY, build_backbone
from .fpn import FPN
from .resnet import BasicStem, BottleneckBlock, ResNet, build_resnet_backbone
