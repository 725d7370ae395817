"""Affinities of pixels by their embeddings (section 3.3), as logarithms: far pixels do not underflow.

Each takes the embeddings of seeds, (N, D), and of pixels, (N, D, H, W), and gives log K, (N, H, W), at most 0. The
first two dimensions are geometric, the others appearance.
"""

from __future__ import annotations

import math

import torch
from detectron2.utils.registry import Registry
from torch import Tensor, nn

KERNEL_REGISTRY = Registry("SEMICONV_KERNEL")
KERNEL_REGISTRY.__doc__ = "Kernels by ``MODEL.SEMICONV.KERNEL``: ``(sigma) -> module``, see this file's head."

_SMALLEST = 1e-12  # added under the root: the norm's slope at 0 is 0 and not undefined


def _difference(seeds: Tensor, pixels: Tensor) -> Tensor:
    return pixels - seeds[:, :, None, None]


def _positive(sigma: float) -> float:
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}, wanted above 0")
    return sigma


class _LearnedWidth(nn.Module):
    """``log_sigma``: the logarithm of a width, in units of the embedding, so that the width stays above 0."""

    def __init__(self, sigma: float = 1.0) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.tensor(math.log(_positive(sigma))))


@KERNEL_REGISTRY.register()
class LaplacianKernel(_LearnedWidth):
    """K = exp(-||Psi_u - Psi_v|| / sigma), sigma a learned scalar: the one the paper uses in Mask R-CNN."""

    def forward(self, seeds: Tensor, pixels: Tensor) -> Tensor:
        """See the head of the file."""
        distance = (_difference(seeds, pixels).square().sum(1) + _SMALLEST).sqrt()
        return -distance * (-self.log_sigma).exp()


@KERNEL_REGISTRY.register()
class GaussianKernel(nn.Module):
    """K = exp(-||Psi_u - Psi_v||^2 / (2 sigma^2)), sigma fixed (the paper's is 1)."""

    def __init__(self, sigma: float = 1.0) -> None:
        super().__init__()
        self.sigma = _positive(sigma)

    def forward(self, seeds: Tensor, pixels: Tensor) -> Tensor:
        """See the head of the file."""
        return _difference(seeds, pixels).square().sum(1) * (-0.5 / self.sigma**2)


@KERNEL_REGISTRY.register()
class SteeredBilateralKernel(_LearnedWidth):
    """A bilateral kernel whose geometric part is steered by the network: K = exp(-||g_u - g_v||^2 / (2 sigma^2))
    exp(-||a_u - a_v||^2 / 2), where g = u + Phi_u are Psi's first two dimensions and a the others. With sigma 1 it is
    the Gaussian kernel; sigma, in units of the coordinates, is learned."""

    def forward(self, seeds: Tensor, pixels: Tensor) -> Tensor:
        """See the head of the file."""
        square = _difference(seeds, pixels).square()
        geometric, appearance = square[:, :2].sum(1), square[:, 2:].sum(1)
        return -0.5 * (geometric * (-2 * self.log_sigma).exp() + appearance)


def soft_seed(logits: Tensor, pixels: Tensor) -> Tensor:
    """The seed's embedding as an expectation, Psi_s = sum_u p_u Psi_u with p = softmax(s): logits (N, H, W), embeddings
    (N, D, H, W) to (N, D)."""
    shares = logits.flatten(1).softmax(1)
    return torch.einsum("np,ndp->nd", shares, pixels.flatten(2))


def hard_seed(logits: Tensor, pixels: Tensor) -> Tensor:
    """The embedding at the most likely pixel; shapes as in :func:`soft_seed`."""
    best = logits.flatten(1).argmax(1)
    return pixels.flatten(2)[torch.arange(len(best), device=best.device), :, best]


SEEDS = {"soft": soft_seed, "hard": hard_seed}
