"""Evaluators that Detectron2 does not have."""

from .coloring import ColoringEvaluator
from .instances import InstanceEvaluator
from .mask_proposals import MaskProposalEvaluator

__all__ = ["ColoringEvaluator", "InstanceEvaluator", "MaskProposalEvaluator"]
