"""The shallow network that predicts the convolutional embedding Phi (section 3.4)."""

from __future__ import annotations

from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from ..autograd import scale_gradient


class EmbeddingPredictor(nn.Module):
    """Predict Phi by a 1x1 convolution, ReLU and a 3x3 convolution. All levels share one predictor.

    Args:
        in_channels: channels of the feature maps.
        conv_dim: output channels of the 1x1 convolution.
        embedding_dim: D, channels of Phi.
        gradient_scale: factor on the gradient that flows back into the features. The paper uses 0.1, because the RPN,
            which shares the features, is sensitive to perturbation.
    """

    @configurable
    def __init__(self, in_channels: int, conv_dim: int, embedding_dim: int, gradient_scale: float) -> None:
        super().__init__()
        self.gradient_scale = gradient_scale
        self.conv = nn.Conv2d(in_channels, conv_dim, 1)
        self.phi = nn.Conv2d(conv_dim, embedding_dim, 3, padding=1)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        nn.init.normal_(self.phi.weight, std=1e-4)  # training starts near Psi = u; large random offsets converge slowly
        for layer in (self.conv, self.phi):
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> dict:
        """Return the constructor's arguments from ``cfg.MODEL.SEMICONV``, which ``check_options`` has checked."""
        options = cfg.MODEL.SEMICONV
        return {
            "in_channels": in_channels,
            "conv_dim": options.CONV_DIM,
            "embedding_dim": options.EMBEDDING_DIM,
            "gradient_scale": options.GRADIENT_SCALE,
        }

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, C, H, W) to Phi (N, D, H, W)."""
        return self.phi(F.relu(self.conv(scale_gradient(features, self.gradient_scale))))
