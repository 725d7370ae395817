"""Semi-convolutional operators (Novotny et al., ECCV 2018, arXiv 1807.10712)."""

from .coloring import SemiConvColoring
from .kernels import KERNEL_REGISTRY, GaussianKernel, LaplacianKernel, SteeredBilateralKernel
from .losses import embedding_loss
from .mask_head import EmbeddingPredictor, SemiConvMaskHead
from .operator import MIXING_REGISTRY, SemiConv
from .roi_heads import SemiConvROIHeads

__all__ = [
    "KERNEL_REGISTRY", "MIXING_REGISTRY", "EmbeddingPredictor", "GaussianKernel", "LaplacianKernel", "SemiConv",
    "SemiConvColoring", "SemiConvMaskHead", "SemiConvROIHeads", "SteeredBilateralKernel", "embedding_loss",
]  # fmt: skip
