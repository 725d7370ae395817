"""Gradients of 0 for what is computed and not used."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def zero_with_grad(tensors: Iterable[Tensor]) -> Tensor | int:
    """0, but a part of the tensors' graphs: added to a loss it gives a gradient of 0 to all that made them, where
    distributed training would stop at a parameter without any. It reads no value, since 0 times one that is not finite
    is not 0."""
    return sum(tensor.flatten()[:0].sum() for tensor in tensors)


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """``x``, whose gradient will be multiplied by ``factor``."""
    return _ScaledGradient.apply(x, factor)
