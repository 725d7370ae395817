"""Kernels K(Psi_s, Psi_u) between a seed's embedding and each pixel's embedding (section 3.3).

All kernels return log K, which does not underflow where a pixel is far from the seed. The first two dimensions of an
embedding are geometric (x and y), the others describe appearance.
"""

from __future__ import annotations

import math

import torch
from detectron2.utils.registry import Registry
from torch import Tensor, nn

KERNEL_REGISTRY = Registry("SEMICONV_KERNEL")
KERNEL_REGISTRY.__doc__ = """
Kernels that ``MODEL.SEMICONV.KERNEL`` can name. An entry is called with ``sigma`` and returns a module that maps seed
embeddings Psi_s (N, D) and pixel embeddings Psi (N, D, H, W) to log K (N, H, W), at most 0.
"""

_NORM_EPSILON = 1e-12  # added to the squared norm, so that the square root has a finite gradient at 0


def safe_norm(vectors: Tensor) -> Tensor:
    """Compute the Euclidean norm over dimension 1, with gradient 0 instead of NaN for a zero vector.

    Args:
        vectors: float (N, D, ...).

    Returns:
        float (N, ...). The norm of a zero vector is 1e-6.
    """
    return (vectors.square().sum(1) + _NORM_EPSILON).sqrt()


def _check_sigma(sigma: float) -> float:
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}, expected a number above 0")
    return sigma


class _LearnedSigmaKernel(nn.Module):
    """Base of the kernels that learn sigma, in units of the embedding.

    The parameter ``log_sigma`` is its logarithm, so that sigma stays positive.
    """

    def __init__(self, sigma: float = 1.0) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.tensor(math.log(_check_sigma(sigma))))


@KERNEL_REGISTRY.register()
class LaplacianKernel(_LearnedSigmaKernel):
    """Laplacian kernel K = exp(-||Psi_s - Psi_u|| / sigma) with a learned sigma, the paper's choice for Mask R-CNN."""

    def forward(self, seed_embeddings: Tensor, embeddings: Tensor) -> Tensor:
        """Return log K (N, H, W), see ``KERNEL_REGISTRY``."""
        return -safe_norm(embeddings - seed_embeddings[:, :, None, None]) * (-self.log_sigma).exp()


@KERNEL_REGISTRY.register()
class GaussianKernel(nn.Module):
    """Gaussian kernel K = exp(-||Psi_s - Psi_u||^2 / (2 sigma^2)) with a fixed sigma, 1 in the paper."""

    def __init__(self, sigma: float = 1.0) -> None:
        super().__init__()
        self.sigma = _check_sigma(sigma)

    def forward(self, seed_embeddings: Tensor, embeddings: Tensor) -> Tensor:
        """Return log K (N, H, W), see ``KERNEL_REGISTRY``."""
        squares = (embeddings - seed_embeddings[:, :, None, None]).square()
        return squares.sum(1) * (-0.5 / self.sigma**2)


@KERNEL_REGISTRY.register()
class SteeredBilateralKernel(_LearnedSigmaKernel):
    """Bilateral kernel, whose geometric part is steered by the network.

    K = exp(-||g_s - g_u||^2 / (2 sigma^2)) exp(-||a_s - a_u||^2 / 2), where g_u = (u_x, u_y) + Phi_u[:2] are the
    geometric dimensions of Psi_u and a_u the other ones. sigma is learned. With sigma = 1 this is the Gaussian kernel.
    """

    def forward(self, seed_embeddings: Tensor, embeddings: Tensor) -> Tensor:
        """Return log K (N, H, W), see ``KERNEL_REGISTRY``."""
        squares = (embeddings - seed_embeddings[:, :, None, None]).square()
        geometric, appearance = squares[:, :2].sum(1), squares[:, 2:].sum(1)
        return -0.5 * (geometric * (-2 * self.log_sigma).exp() + appearance)


def soft_seed(logits: Tensor, embeddings: Tensor) -> Tensor:
    """Compute the expected embedding Psi_s = sum_u p_u Psi_u with p = softmax(s) (section 3.4).

    Args:
        logits: s, the mask logits of N regions, float (N, H, W).
        embeddings: Psi, float (N, D, H, W).

    Returns:
        Psi_s, float (N, D).
    """
    probabilities = logits.flatten(1).softmax(1)
    return torch.einsum("np,ndp->nd", probabilities, embeddings.flatten(2))


def hard_seed(logits: Tensor, embeddings: Tensor) -> Tensor:
    """Return the embedding at the pixel with the largest logit. Shapes are those of :func:`soft_seed`."""
    seed_index = logits.flatten(1).argmax(1)
    return embeddings.flatten(2)[torch.arange(len(seed_index), device=seed_index.device), :, seed_index]


SEED_FUNCTIONS = {"soft": soft_seed, "hard": hard_seed}  # by MODEL.SEMICONV.SEED
