"""Proposal generators: feature maps to boxes that may hold an object."""
# ruff: noqa: F401 (re-exports)

from .build import PROPOSAL_GENERATOR_REGISTRY, build_proposal_generator
from .rpn import RPN, RPN_HEAD_REGISTRY, StandardRPNHead, build_rpn_head
