"""Feature pyramid network (Lin et al., 2017)."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn
from torch.nn import functional as F

from detectron2.layers import Conv2d, ShapeSpec, get_norm

from .backbone import Backbone, pick_shapes
from .build import BACKBONE_REGISTRY
from .resnet import build_resnet_backbone


class FPN(Backbone):
    """Compute levels ``p2``, ``p3``, ... with the same number of channels. Level i has stride 2**i.

    Args:
        bottom_up: the backbone that computes the input feature maps.
        in_features: names of its feature maps to use, from the finest to the coarsest. Each stride is twice the one
            before.
        out_channels: channels of every level.
        norm: norm of the convolutions, see ``get_norm``. With "" they have a bias instead.
        top_block: computes ``top_block.num_levels`` coarser levels from the feature map ``top_block.in_feature``.
        fuse_type: whether the lateral and the top-down map are added ("sum") or averaged ("avg").
    """

    def __init__(
        self, bottom_up: Backbone, in_features: list[str], out_channels: int, norm="",
        top_block: nn.Module | None = None, fuse_type: str = "sum",
    ) -> None:  # fmt: skip
        super().__init__()
        if not in_features or fuse_type not in ("sum", "avg"):
            raise AssertionError(f"expected names and 'sum' or 'avg', got {in_features} and {fuse_type!r}")
        shapes = pick_shapes(bottom_up.output_shape(), in_features, "MODEL.FPN.IN_FEATURES")
        strides = [shape.stride for shape in shapes]
        if any(coarse != 2 * fine for fine, coarse in zip(strides, strides[1:])):
            raise AssertionError(f"each stride must be twice the one before, got {strides} for {list(in_features)}")
        levels = [stride.bit_length() - 1 for stride in strides]
        self.lateral_convs, self.output_convs = [], []  # from the coarsest to the finest level, as in forward()
        for level, shape in zip(levels, shapes):
            options = [{"bias": norm == "", "norm": get_norm(norm, out_channels)} for _ in range(2)]
            lateral = Conv2d(shape.channels, out_channels, kernel_size=1, **options[0])
            output = Conv2d(out_channels, out_channels, kernel_size=3, padding=1, **options[1])
            for name, conv, convs in (("lateral", lateral, self.lateral_convs), ("output", output, self.output_convs)):
                weight_init.c2_xavier_fill(conv)
                self.add_module(f"fpn_{name}{level}", conv)
                convs.insert(0, conv)
        self.top_block = top_block
        self.in_features = tuple(in_features)
        self.bottom_up = bottom_up
        self._fuse_type, self._size_divisibility = fuse_type, strides[-1]
        if top_block is not None:
            levels += range(levels[-1] + 1, levels[-1] + 1 + top_block.num_levels)
        self._out_features = [f"p{level}" for level in levels]
        self._out_feature_strides = {f"p{level}": 2**level for level in levels}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @property
    def size_divisibility(self) -> int:
        """Stride of the coarsest input feature map."""
        return self._size_divisibility

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the levels from images (N, C, H, W), as a dict from the finest to the coarsest."""
        bottom_up = self.bottom_up(x)
        levels, merged = [], None
        for name, lateral, output in zip(reversed(self.in_features), self.lateral_convs, self.output_convs):
            above, merged = merged, lateral(bottom_up[name])
            if above is not None:
                merged = merged + F.interpolate(above, scale_factor=2.0, mode="nearest")
                if self._fuse_type == "avg":
                    merged = merged / 2
            levels.insert(0, output(merged))
        outputs = dict(zip(self._out_features, levels))
        if self.top_block is not None:
            name = self.top_block.in_feature
            extra = self.top_block(bottom_up[name] if name in bottom_up else outputs[name])
            outputs.update(zip(self._out_features[len(levels) :], extra))
        return outputs


class LastLevelMaxPool(nn.Module):
    """Compute ``p6`` as every second pixel of ``p5``."""

    num_levels = 1
    in_feature = "p5"

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Subsample (N, C, H, W) to [(N, C, H / 2, W / 2)]."""
        return [F.max_pool2d(x, kernel_size=1, stride=2)]


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Build the ResNet and the FPN of the config, with an additional level ``p6``."""
    bottom_up, options = build_resnet_backbone(cfg, input_shape), cfg.MODEL.FPN
    top = LastLevelMaxPool()
    return FPN(bottom_up, options.IN_FEATURES, options.OUT_CHANNELS, options.NORM, top, options.FUSE_TYPE)
