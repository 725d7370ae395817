"""The registry of models."""

from __future__ import annotations

import torch
from torch import nn

from detectron2.utils.registry import Registry

META_ARCH_REGISTRY = Registry("META_ARCH")  # called with (cfg)


def build_model(cfg) -> nn.Module:
    """Build the model ``cfg.MODEL.META_ARCHITECTURE`` with random weights on ``cfg.MODEL.DEVICE``."""
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).to(torch.device(cfg.MODEL.DEVICE))
