"""Window mask heads: InstanceFCN's score maps, and the DeepMask-style layer that the paper compares them with."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ..position_sensitive import to_table, window_cell_indices

WINDOW_MASK_HEAD_REGISTRY = Registry("WINDOW_MASK_HEAD")
WINDOW_MASK_HEAD_REGISTRY.__doc__ = """
Registry of mask heads, which predict the masks of windows; ``MODEL.INSTANCE_FCN.MASK_HEAD`` names one. The registered
object is called with ``(cfg, in_channels)`` and must return a module with:

* ``resolution``: height and width of its masks, in cells;
* ``forward(features)``: converts the feature maps, one (N, C, Hi, Wi) per level, to the maps that all windows read
  from. They are computed once per batch;
* ``predict_masks(mask_maps, window_indices)``: takes these maps and W windows, int64 (W, 6) as in
  ``window_cell_indices``, and returns the mask logits, float (W, resolution, resolution), and ``in_image``, bool of
  the same shape: whether a cell is in the image. Logits in the image must not depend on the padding of the batch.
"""


@WINDOW_MASK_HEAD_REGISTRY.register()
class InstanceSensitiveHead(nn.Module):
    """The instance branch and the instance assembling module (section 3.1).

    A 1x1 convolution, ReLU and a 3x3 convolution predict k * k instance-sensitive score maps. A window's mask is copied
    from them. Neighboring windows therefore share most predictions (local coherence, section 3.2), and the size of no
    layer depends on the mask resolution.

    Args:
        in_channels: number of feature channels, the same on all levels.
        conv_dim: number of channels between the two convolutions.
        grid_size: k.
        window_size: m, the height and width of a window in feature pixels, and of its mask in cells.
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
        """Read the arguments from ``cfg.MODEL.INSTANCE_FCN``."""
        options = cfg.MODEL.INSTANCE_FCN
        sizes = {"grid_size": options.GRID_SIZE, "window_size": options.WINDOW_SIZE}
        return {"in_channels": in_channels, "conv_dim": options.CONV_DIM, **sizes}

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Predict the score maps, one (N, k * k, Hi, Wi) per level."""
        return [self.score_maps(self.conv(feature)) for feature in features]

    def predict_masks(self, mask_maps: list[Tensor], window_indices: Tensor) -> tuple[Tensor, Tensor]:
        """Assemble the windows' mask logits by copying from the score maps, see ``WINDOW_MASK_HEAD_REGISTRY``."""
        cell_indices, in_image = window_cell_indices(
            window_indices, _map_shapes(mask_maps), self.grid_size, self.resolution
        )
        return to_table(mask_maps, self.grid_size)[cell_indices, 0].float(), in_image


@WINDOW_MASK_HEAD_REGISTRY.register()
class DeepMaskHead(nn.Module):
    """DeepMask's mask branch (Pinheiro et al., 2015): fully connected layers from a window's features to its mask.

    There is no ReLU after the hidden layer: as in DeepMask, the two layers factorize one large layer.

    Args:
        in_channels: number of feature channels, the same on all levels.
        hidden_dim: number of channels of the hidden layer.
        window_size: m, the height and width of a window in feature pixels.
        mask_resolution: height and width of the predicted mask, in cells.
    """

    @configurable
    def __init__(self, *, in_channels: int, hidden_dim: int, window_size: int, mask_resolution: int) -> None:
        super().__init__()
        self.window_size, self.resolution = window_size, mask_resolution
        self.hidden = nn.Linear(in_channels * window_size * window_size, hidden_dim)
        self.outputs = nn.Linear(hidden_dim, mask_resolution * mask_resolution)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> dict:
        """Read the arguments from ``cfg.MODEL.INSTANCE_FCN``."""
        options = cfg.MODEL.INSTANCE_FCN
        sizes = {"window_size": options.WINDOW_SIZE, "mask_resolution": options.DEEPMASK_RESOLUTION}
        return {"in_channels": in_channels, "hidden_dim": options.CONV_DIM, **sizes}

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the features as they are: every window computes its mask from them on its own."""
        return features

    def predict_masks(self, mask_maps: list[Tensor], window_indices: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the windows' mask logits, see ``WINDOW_MASK_HEAD_REGISTRY``. Features outside the image are 0."""
        cell_indices, in_image = window_cell_indices(window_indices, _map_shapes(mask_maps), 1, self.window_size)
        window_features = to_table(mask_maps, 1)[cell_indices] * in_image[..., None]
        mask_logits = self.outputs(self.hidden(window_features.flatten(1))).view(-1, self.resolution, self.resolution)
        nearest = torch.arange(self.resolution, device=mask_logits.device) * self.window_size // self.resolution
        return mask_logits.float(), in_image[:, nearest][:, :, nearest]


def _map_shapes(maps: list[Tensor]) -> list[tuple[int, int, int]]:
    """Return (N, H, W) of each level's maps."""
    return [(m.shape[0], m.shape[2], m.shape[3]) for m in maps]
