"""Small helpers for gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def zero_with_grad(tensors: Iterable[Tensor]) -> Tensor | int:
    """Return a zero that keeps the tensors in the autograd graph, to be added to a loss.

    The parameters behind the tensors then receive a zero gradient instead of none, which DistributedDataParallel (DDP)
    needs. The values of the tensors are not used, so that the result is zero even where they are infinite or NaN.

    Args:
        tensors: of any shapes, for example the feature maps that no head reads.

    Returns:
        A scalar tensor, or the number 0 if there are no tensors.
    """
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
    """Return ``x`` unchanged, and multiply its gradient by ``factor`` in the backward pass."""
    return _ScaledGradient.apply(x, factor)
