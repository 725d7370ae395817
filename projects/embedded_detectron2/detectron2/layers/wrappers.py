"""PyTorch layers by the names that Detectron2 uses, and a convolution with norm and activation."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

ConvTranspose2d = nn.ConvTranspose2d
Linear = nn.Linear


class Conv2d(nn.Conv2d):
    """A convolution, followed by an optional norm and activation.

    Args:
        args, kwargs: arguments of ``torch.nn.Conv2d``, and ``norm`` (a module) and ``activation`` (a callable).
    """

    def __init__(self, *args, **kwargs) -> None:
        norm = kwargs.pop("norm", None)
        activation = kwargs.pop("activation", None)
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute (N, out_channels, H', W') from (N, C, H, W)."""
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def cat(tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """Concatenate tensors. A single tensor is returned without a copy."""
    if not isinstance(tensors, (list, tuple)):
        raise AssertionError(f"expected a list of tensors, got {type(tensors).__name__}")
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def cross_entropy(input: torch.Tensor, target: torch.Tensor, *, reduction: str = "mean", **kwargs) -> torch.Tensor:
    """Compute ``F.cross_entropy``. Its mean over no samples is a zero with gradient, not NaN."""
    if target.numel() == 0 and reduction == "mean":
        return input.sum() * 0.0
    return F.cross_entropy(input, target, reduction=reduction, **kwargs)


def move_device_like(src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
    """Move ``src`` to the device of ``dst``."""
    return src.to(dst.device)
