"""The shallow network that predicts the convolutional embedding Phi."""

from __future__ import annotations

from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from ..autograd import scale_gradient


class EmbeddingPredictor(nn.Module):
    """The shallow network that predicts Phi: 1x1 convolution, ReLU, 3x3 convolution; shared by all levels.

    Args:
        in_channels, conv_dim, embedding_dim: channels before, between and after.
        gradient_scale: factor on the gradient that goes back into the features (the RPN is easily perturbed).
    """

    def __init__(self, in_channels: int, conv_dim: int, embedding_dim: int, gradient_scale: float) -> None:
        super().__init__()
        self.gradient_scale = gradient_scale
        self.conv = nn.Conv2d(in_channels, conv_dim, 1)
        self.phi = nn.Conv2d(conv_dim, embedding_dim, 3, padding=1)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        nn.init.normal_(self.phi.weight, std=1e-4)  # from Psi = u: large random offsets took long to unlearn
        for layer in (self.conv, self.phi):
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int) -> EmbeddingPredictor:
        """By ``cfg.MODEL.SEMICONV``, which :func:`check_options` has seen."""
        options = cfg.MODEL.SEMICONV
        return cls(in_channels, options.CONV_DIM, options.EMBEDDING_DIM, options.GRADIENT_SCALE)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to Phi (N, D, H, W)."""
        return self.phi(F.relu(self.conv(scale_gradient(features, self.gradient_scale))))
