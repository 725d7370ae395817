"""FCIS: fully convolutional instance-aware semantic segmentation (Li et al., CVPR 2017, arXiv 1611.07709)."""

from .anchors import WholeSideAnchorGenerator
from .fcis import FCIS
from .mask_voting import MaskVoting
from .roi_heads import FCISROIHeads

__all__ = ["FCIS", "FCISROIHeads", "MaskVoting", "WholeSideAnchorGenerator"]
