"""PyTorch layers under the names Detectron2 uses, with norm and activation folded into the convolution."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

ConvTranspose2d = nn.ConvTranspose2d
Linear = nn.Linear


class Conv2d(nn.Conv2d):
    """A convolution with an optional ``norm`` (a module) and ``activation`` (a callable) after it."""

    def __init__(self, *args, **kwargs) -> None:
        norm = kwargs.pop("norm", None)
        activation = kwargs.pop("activation", None)
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, out_channels, H', W')."""
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def cat(tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """``torch.cat`` that returns a single tensor as it is."""
    if not isinstance(tensors, (list, tuple)):
        raise AssertionError(f"cat takes a list of tensors, got {type(tensors).__name__}")
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def cross_entropy(input: torch.Tensor, target: torch.Tensor, *, reduction: str = "mean", **kwargs) -> torch.Tensor:
    """``F.cross_entropy`` whose mean over no samples is 0 (with gradient), not NaN."""
    if target.numel() == 0 and reduction == "mean":
        return input.sum() * 0.0
    return F.cross_entropy(input, target, reduction=reduction, **kwargs)


def move_device_like(src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
    """``src`` on the device of ``dst``."""
    return src.to(dst.device)
