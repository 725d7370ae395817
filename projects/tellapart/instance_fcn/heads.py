"""What predicts the mask of a window: InstanceFCN's score maps, and the DeepMask-style layer that it argues against."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ..position_sensitive import to_table, window_cell_indices

WINDOW_MASK_HEAD_REGISTRY = Registry("WINDOW_MASK_HEAD")
WINDOW_MASK_HEAD_REGISTRY.__doc__ = """
Mask heads by ``MODEL.INSTANCE_FCN.MASK_HEAD``: ``(cfg, in_channels) -> module``. The module has ``resolution``, cells a
side of its masks; ``forward(features)``, what it computes once for all windows, of a list of maps (N, C, Hi, Wi); and
``masks(shared, windows)``: logits (W, resolution, resolution) and which cells lie in the image, bool of that shape;
``windows`` as in ``window_cell_indices``. What lies in a batch's padding must not show in the others.
"""


@WINDOW_MASK_HEAD_REGISTRY.register()
class InstanceSensitiveHead(nn.Module):
    """1x1 convolution, ReLU, 3x3 convolution to k * k score maps; a window copies its cells from them (section 3.1).

    Neighbouring windows share the predictions of almost every pixel (local coherence), and no layer's size hangs on the
    masks' resolution.

    Args:
        in_channels: of the features, on all levels.
        conv_dim: channels between the convolutions.
        grid_size: k.
        window_size: m, feature pixels a side of a window, and cells of its mask.
    """

    @configurable
    def __init__(self, *, in_channels: int, conv_dim: int, grid_size: int, window_size: int) -> None:
        super().__init__()
        self.grid_size, self.resolution = grid_size, window_size
        self.conv = Conv2d(in_channels, conv_dim, 1, activation=nn.ReLU())
        self.score_maps = nn.Conv2d(conv_dim, grid_size * grid_size, 3, padding=1)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        nn.init.zeros_(self.conv.bias)
        nn.init.normal_(self.score_maps.weight, std=0.01)
        nn.init.zeros_(self.score_maps.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> dict:
        """Arguments out of ``cfg.MODEL.INSTANCE_FCN``."""
        options = cfg.MODEL.INSTANCE_FCN
        sizes = {"grid_size": options.GRID_SIZE, "window_size": options.WINDOW_SIZE}
        return {"in_channels": in_channels, "conv_dim": options.CONV_DIM, **sizes}

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Score maps (N, k * k, Hi, Wi), one tensor a level."""
        return [self.score_maps(self.conv(feature)) for feature in features]

    def masks(self, shared: list[Tensor], windows: Tensor) -> tuple[Tensor, Tensor]:
        """See the registry."""
        shapes = [(m.shape[0], m.shape[2], m.shape[3]) for m in shared]
        indices, inside = window_cell_indices(windows, shapes, self.grid_size, self.resolution)
        return to_table(shared, self.grid_size)[indices, 0].float(), inside


@WINDOW_MASK_HEAD_REGISTRY.register()
class DeepMaskHead(nn.Module):
    """As DeepMask (Pinheiro et al., 2015): each window's features through a hidden layer to all pixels of its mask.

    Args:
        in_channels: of the features, on all levels.
        hidden_dim: of the layer between, without ReLU: a factorisation of one large layer, as in DeepMask.
        window_size: m, feature pixels a side of a window.
        mask_resolution: outputs a side.
    """

    @configurable
    def __init__(self, *, in_channels: int, hidden_dim: int, window_size: int, mask_resolution: int) -> None:
        super().__init__()
        self.window_size, self.resolution = window_size, mask_resolution
        self.hidden = nn.Linear(in_channels * window_size * window_size, hidden_dim)
        self.outputs = nn.Linear(hidden_dim, mask_resolution * mask_resolution)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> dict:
        """Arguments out of ``cfg.MODEL.INSTANCE_FCN``."""
        options = cfg.MODEL.INSTANCE_FCN
        sizes = {"window_size": options.WINDOW_SIZE, "mask_resolution": options.DEEPMASK_RESOLUTION}
        return {"in_channels": in_channels, "hidden_dim": options.CONV_DIM, **sizes}

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """The features themselves: nothing is shared between windows."""
        return features

    def masks(self, shared: list[Tensor], windows: Tensor) -> tuple[Tensor, Tensor]:
        """See the registry. Features outside of the image count as 0."""
        shapes = [(m.shape[0], m.shape[2], m.shape[3]) for m in shared]
        indices, inside = window_cell_indices(windows, shapes, 1, self.window_size)
        cells = to_table(shared, 1)[indices] * inside[..., None]
        logits = self.outputs(self.hidden(cells.flatten(1))).view(-1, self.resolution, self.resolution)
        nearest = torch.arange(self.resolution, device=logits.device) * self.window_size // self.resolution
        return logits.float(), inside[:, nearest][:, :, nearest]
