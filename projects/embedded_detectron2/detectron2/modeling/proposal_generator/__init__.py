"""Proposal generators: find boxes that may contain an object in feature maps."""
# ruff: noqa: F401 (re-exports)

from .build import PROPOSAL_GENERATOR_REGISTRY, build_proposal_generator
from .rpn import RPN, RPN_HEAD_REGISTRY, StandardRPNHead, build_rpn_head
