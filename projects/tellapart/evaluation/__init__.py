"""Evaluators that Detectron2 does not have."""

from .coco import CropCOCOEvaluator
from .coloring import ColoringEvaluator
from .instances import InstanceEvaluator
from .mask_proposals import MaskProposalEvaluator

__all__ = ["ColoringEvaluator", "CropCOCOEvaluator", "InstanceEvaluator", "MaskProposalEvaluator"]
