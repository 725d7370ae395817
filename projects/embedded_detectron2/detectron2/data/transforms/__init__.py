"""Deterministic transforms (most are fvcore's) and the random policies that choose them."""

from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    Transform,
    TransformList,
    VFlipTransform,
)

from .augmentation import AugInput, Augmentation, AugmentationList
from .augmentation_impl import RandomCrop, RandomFlip, ResizeShortestEdge
from .transform import ResizeTransform

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "CropTransform",
    "HFlipTransform",
    "NoOpTransform",
    "RandomCrop",
    "RandomFlip",
    "ResizeShortestEdge",
    "ResizeTransform",
    "Transform",
    "TransformList",
    "VFlipTransform",
]
