"""Saving and loading models."""
# ruff: noqa: F401 (re-exports)

from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer

from .detection_checkpoint import DetectionCheckpointer
