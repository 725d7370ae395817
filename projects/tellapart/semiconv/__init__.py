"""Semi-convolutional operators in Mask R-CNN (Novotny et al., ECCV 2018, arXiv 1807.10712)."""

from ..embeddings import (
    KERNEL_REGISTRY,
    MIXING_REGISTRY,
    EmbeddingPredictor,
    GaussianKernel,
    LaplacianKernel,
    SemiConv,
    SteeredBilateralKernel,
    embedding_loss,
)  # fmt: skip
from .mask_head import SemiConvMaskHead
from .roi_heads import SemiConvROIHeads

__all__ = [
    "KERNEL_REGISTRY", "MIXING_REGISTRY", "EmbeddingPredictor", "GaussianKernel", "LaplacianKernel", "SemiConv",
    "SemiConvMaskHead", "SemiConvROIHeads", "SteeredBilateralKernel", "embedding_loss",
]  # fmt: skip
