"""What every backbone offers."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod

from torch import nn

from detectron2.layers import ShapeSpec


class Backbone(nn.Module, metaclass=ABCMeta):
    """Base of backbones.

    A subclass defines ``forward`` and either overrides ``output_shape`` or sets ``_out_features`` (names),
    ``_out_feature_channels`` and ``_out_feature_strides`` (by name).
    """

    @abstractmethod
    def forward(self, x):
        """Images (N, C, H, W) to a dict of feature maps by name."""

    @property
    def size_divisibility(self) -> int:
        """Height and width of the input must be multiples of this; 0: any size does."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """How the input must be padded: optionally ``size_divisibility`` and ``square_size`` (pixels)."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature map by name."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


def pick_shapes(shapes: dict[str, ShapeSpec], names: list[str], key: str) -> list[ShapeSpec]:
    """The shapes of the feature maps ``names``, which the config key ``key`` asks for; KeyError if one is missing."""
    missing = [name for name in names if name not in shapes]
    if missing:
        raise KeyError(f"{key} asks for the feature maps {missing}, the backbone gives {list(shapes)}")
    return [shapes[name] for name in names]
