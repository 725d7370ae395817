"""Models by their name in the config."""

from __future__ import annotations

import torch
from torch import nn

from detectron2.utils.registry import Registry

META_ARCH_REGISTRY = Registry("META_ARCH")  # (cfg) -> called like GeneralizedRCNN


def build_model(cfg) -> nn.Module:
    """The model ``cfg.MODEL.META_ARCHITECTURE`` on ``cfg.MODEL.DEVICE``, its weights random."""
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).to(torch.device(cfg.MODEL.DEVICE))
