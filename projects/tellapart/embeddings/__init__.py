"""Semi-convolutional embeddings, shared by the Mask R-CNN heads in ``semiconv`` and by ``coloring``.

Novotny et al., "Semi-convolutional operators for instance segmentation", ECCV 2018. The operator, its kernels and the
loss are independent of any model and can be used after any convolution.
"""

from .kernels import KERNEL_REGISTRY, GaussianKernel, LaplacianKernel, SteeredBilateralKernel, hard_seed, soft_seed
from .losses import embedding_loss
from .operator import MIXING_REGISTRY, SemiConv, box_coordinates, map_coordinates
from .predictor import EmbeddingPredictor

__all__ = [
    "KERNEL_REGISTRY", "MIXING_REGISTRY", "EmbeddingPredictor", "GaussianKernel", "LaplacianKernel", "SemiConv",
    "SteeredBilateralKernel", "box_coordinates", "embedding_loss", "hard_seed", "map_coordinates", "soft_seed",
]  # fmt: skip
