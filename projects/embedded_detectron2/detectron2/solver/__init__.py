"""Optimizers and learning rate schedules."""
# ruff: noqa: F401 (re-exports)

from .build import build_lr_scheduler, build_optimizer, get_default_optimizer_params
from .lr_scheduler import LRMultiplier, WarmupParamScheduler
