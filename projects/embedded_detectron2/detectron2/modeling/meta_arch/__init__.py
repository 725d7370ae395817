"""Meta-architectures: complete models."""
# ruff: noqa: F401 (re-exports)

from .build import META_ARCH_REGISTRY, build_model
from .rcnn import GeneralizedRCNN
