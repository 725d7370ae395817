"""Semi-convolutional embeddings: what the Mask R-CNN head (``semiconv``) and instance coloring (``coloring``) share."""

from .kernels import KERNEL_REGISTRY, GaussianKernel, LaplacianKernel, SteeredBilateralKernel
from .losses import embedding_loss
from .operator import MIXING_REGISTRY, SemiConv
from .predictor import EmbeddingPredictor

__all__ = [
    "KERNEL_REGISTRY", "MIXING_REGISTRY", "EmbeddingPredictor", "GaussianKernel", "LaplacianKernel", "SemiConv",
    "SteeredBilateralKernel", "embedding_loss",
]  # fmt: skip
