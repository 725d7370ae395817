"""From pooled regions to the features that the box predictor takes."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn

from detectron2.config import configurable
from detectron2.layers import Conv2d, Linear, ShapeSpec, get_norm
from detectron2.utils.registry import Registry

__all__ = ["ROI_BOX_HEAD_REGISTRY", "FastRCNNConvFCHead", "build_box_head"]

ROI_BOX_HEAD_REGISTRY = Registry("ROI_BOX_HEAD")
ROI_BOX_HEAD_REGISTRY.__doc__ = "Callables ``(cfg, input_shape: ShapeSpec)`` that give a module with ``output_shape``."


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions, then fully connected layers, each with ReLU.

    Args:
        input_shape: channels, height and width of a region.
        conv_dims, fc_dims: output channels of each layer; not both empty.
        conv_norm: for the convolutions, see ``get_norm``.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, conv_dims: list[int], fc_dims: list[int], conv_norm="") -> None:
        super().__init__()
        if not conv_dims and not fc_dims:
            raise AssertionError("a box head needs layers: MODEL.ROI_BOX_HEAD.NUM_CONV and NUM_FC are both 0")
        channels, height, width = input_shape.channels, input_shape.height, input_shape.width
        for i, dim in enumerate(conv_dims, start=1):
            conv = Conv2d(
                channels,
                dim,
                kernel_size=3,
                padding=1,
                bias=not conv_norm,
                norm=get_norm(conv_norm, dim),
                activation=nn.ReLU(),
            )
            weight_init.c2_msra_fill(conv)
            self.add_module(f"conv{i}", conv)
            channels = dim
        self._output_shape = ShapeSpec(channels=channels, height=height, width=width)
        features = channels * (height or 1) * (width or 1)
        for i, dim in enumerate(fc_dims, start=1):
            if i == 1:
                self.add_module("flatten", nn.Flatten())
            fc = Linear(features, dim)
            weight_init.c2_xavier_fill(fc)
            self.add_module(f"fc{i}", fc)
            self.add_module(f"fc_relu{i}", nn.ReLU())
            features = dim
            self._output_shape = ShapeSpec(channels=dim)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        """Arguments out of ``cfg.MODEL.ROI_BOX_HEAD``."""
        options = cfg.MODEL.ROI_BOX_HEAD
        return {
            "input_shape": input_shape,
            "conv_dims": [options.CONV_DIM] * options.NUM_CONV,
            "fc_dims": [options.FC_DIM] * options.NUM_FC,
            "conv_norm": options.NORM,
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Regions (M, C, H, W) to (M, fc_dims[-1]), or (M, conv_dims[-1], H, W) without fully connected layers."""
        return super().forward(x)

    @property
    def output_shape(self) -> ShapeSpec:
        """Of one region."""
        return self._output_shape


def build_box_head(cfg, input_shape: ShapeSpec) -> nn.Module:
    """The head ``cfg.MODEL.ROI_BOX_HEAD.NAME`` for regions of this shape."""
    return ROI_BOX_HEAD_REGISTRY.get(cfg.MODEL.ROI_BOX_HEAD.NAME)(cfg, input_shape)
