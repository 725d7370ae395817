"""The base class of backbones."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod

from torch import nn

from detectron2.layers import ShapeSpec


class Backbone(nn.Module, metaclass=ABCMeta):
    """Base class of backbones.

    A subclass defines ``forward``. It also sets ``_out_features``, a list of names, and ``_out_feature_channels`` and
    ``_out_feature_strides``, dicts by name, or overrides ``output_shape``.
    """

    @abstractmethod
    def forward(self, x):
        """Compute a dict of feature maps by name from images (N, C, H, W)."""

    @property
    def size_divisibility(self) -> int:
        """Height and width of the input must be multiples of this. 0 means that any size is allowed."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Further rules for padding the input, see ``ImageList.from_tensors``."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each feature map, by name."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


def pick_shapes(shapes: dict[str, ShapeSpec], names: list[str], key: str) -> list[ShapeSpec]:
    """Return the shapes of the feature maps ``names``, which are the value of the config key ``key``.

    Raises:
        KeyError: the backbone has no feature map of this name.
    """
    missing = [name for name in names if name not in shapes]
    if missing:
        raise KeyError(f"{key} names the feature maps {missing}, but the backbone returns {list(shapes)}")
    return [shapes[name] for name in names]
