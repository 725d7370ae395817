"""Deterministic transforms, most of them fvcore's, and the augmentations that choose them at random."""
# ruff: noqa: F401, I001 (re-exports)

from fvcore.transforms.transform import CropTransform, HFlipTransform, NoOpTransform, VFlipTransform
from fvcore.transforms.transform import Transform, TransformList

from .augmentation import AugInput, Augmentation, AugmentationList
from .augmentation_impl import RandomCrop, RandomFlip, ResizeShortestEdge
from .transform import ResizeTransform
