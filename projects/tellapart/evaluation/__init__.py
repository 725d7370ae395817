"""Measures that Detectron2 does not have."""

from .mask_proposals import MaskProposalEvaluator

__all__ = ["MaskProposalEvaluator"]
