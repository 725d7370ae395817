"""The box head: computes one feature vector per RoI from the pooled features."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
from torch import nn

from detectron2.config import configurable
from detectron2.layers import Conv2d, Linear, ShapeSpec, get_norm
from detectron2.utils.registry import Registry

__all__ = ["ROI_BOX_HEAD_REGISTRY", "FastRCNNConvFCHead", "build_box_head"]

ROI_BOX_HEAD_REGISTRY = Registry("ROI_BOX_HEAD")  # called with (cfg, ShapeSpec)


def conv_relu(in_channels: int, out_channels: int, norm) -> Conv2d:
    """Return a 3x3 convolution with norm and ReLU."""
    options = {"bias": not norm, "norm": get_norm(norm, out_channels), "activation": nn.ReLU()}
    return Conv2d(in_channels, out_channels, kernel_size=3, padding=1, **options)


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions and fully connected layers, each followed by ReLU.

    The input is (M, C, H, W), the output (M, fc_dims[-1]), or (M, conv_dims[-1], H, W) without fully connected layers.

    Args:
        input_shape: channels, height and width of the pooled features.
        conv_dims: output channels of each convolution.
        fc_dims: output channels of each fully connected layer.
        conv_norm: norm of the convolutions, see ``get_norm``.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, conv_dims: list[int], fc_dims: list[int], conv_norm="") -> None:
        super().__init__()
        if not conv_dims and not fc_dims:
            raise AssertionError("a box head needs layers: MODEL.ROI_BOX_HEAD.NUM_CONV and NUM_FC are both 0")
        channels, height, width = input_shape.channels, input_shape.height, input_shape.width
        for i, dim in enumerate(conv_dims, start=1):
            self.add_module(f"conv{i}", conv_relu(channels, dim, conv_norm))
            channels = dim
        self._output_shape = ShapeSpec(channels=channels, height=height, width=width)
        features = channels * (height or 1) * (width or 1)
        for i, dim in enumerate(fc_dims, start=1):
            if i == 1:
                self.add_module("flatten", nn.Flatten())
            self.add_module(f"fc{i}", Linear(features, dim))
            self.add_module(f"fc_relu{i}", nn.ReLU())
            features, self._output_shape = dim, ShapeSpec(channels=dim)
        for layer in self:
            if isinstance(layer, Conv2d):
                weight_init.c2_msra_fill(layer)
            elif isinstance(layer, Linear):
                weight_init.c2_xavier_fill(layer)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        """Read the arguments from ``cfg.MODEL.ROI_BOX_HEAD``."""
        options = cfg.MODEL.ROI_BOX_HEAD
        convs, fcs = [options.CONV_DIM] * options.NUM_CONV, [options.FC_DIM] * options.NUM_FC
        return {"input_shape": input_shape, "conv_dims": convs, "fc_dims": fcs, "conv_norm": options.NORM}

    @property
    def output_shape(self) -> ShapeSpec:
        """Shape of the output per RoI."""
        return self._output_shape


def build_box_head(cfg, input_shape: ShapeSpec) -> nn.Module:
    """Build the head ``cfg.MODEL.ROI_BOX_HEAD.NAME`` for pooled features of this shape."""
    return ROI_BOX_HEAD_REGISTRY.get(cfg.MODEL.ROI_BOX_HEAD.NAME)(cfg, input_shape)
