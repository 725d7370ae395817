"""Anchor boxes at the pixels of feature maps."""

from __future__ import annotations

import math

import torch
from torch import nn

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes
from detectron2.utils.registry import Registry

ANCHOR_GENERATOR_REGISTRY = Registry("ANCHOR_GENERATOR")  # called with (cfg, list[ShapeSpec])


class BufferList(nn.Module):
    """A list of tensors that move to the device of the module but are not in its state dict."""

    def __init__(self, buffers: list[torch.Tensor]) -> None:
        super().__init__()
        for i, buffer in enumerate(buffers):
            self.register_buffer(str(i), buffer, persistent=False)

    def __len__(self) -> int:
        return len(self._buffers)

    def __iter__(self):
        return iter(self._buffers.values())


def _per_level(values: list, num_levels: int, name: str) -> list[list[float]]:
    """Return one list per feature map. ``values`` may also be one list for all of them, flat or nested."""
    values = list(values) if values and isinstance(values[0], (list, tuple)) else [values]
    if len(values) not in (1, num_levels):
        raise AssertionError(f"anchor {name} are given for {len(values)} feature maps, expected 1 or {num_levels}")
    return values if len(values) == num_levels else values * num_levels


@ANCHOR_GENERATOR_REGISTRY.register()
class DefaultAnchorGenerator(nn.Module):
    """Generate anchors of every size and aspect ratio at every pixel of the feature maps.

    Args:
        sizes: square roots of the anchor areas, in image pixels: one list per feature map, or one list for all.
        aspect_ratios: height / width: one list per feature map, or one list for all.
        strides: stride of each feature map, in image pixels.
        offset: center of the first anchor as a fraction of the stride, in [0, 1).
    """

    box_dim: int = 4

    @configurable
    def __init__(self, *, sizes, aspect_ratios, strides: list[int], offset: float = 0.5) -> None:
        super().__init__()
        if not 0.0 <= offset < 1.0:
            raise AssertionError(f"anchor offset must be in [0, 1), got {offset}")
        self.strides = strides
        self.offset = offset
        sizes = _per_level(sizes, len(strides), "sizes")
        aspect_ratios = _per_level(aspect_ratios, len(strides), "aspect_ratios")
        self.cell_anchors = BufferList([self.generate_cell_anchors(s, a) for s, a in zip(sizes, aspect_ratios)])

    @classmethod
    def from_config(cls, cfg, input_shape: list[ShapeSpec]) -> dict:
        """Read the arguments from ``cfg.MODEL.ANCHOR_GENERATOR``."""
        options, strides = cfg.MODEL.ANCHOR_GENERATOR, [shape.stride for shape in input_shape]
        ratios = options.ASPECT_RATIOS
        return {"sizes": options.SIZES, "aspect_ratios": ratios, "strides": strides, "offset": options.OFFSET}

    @property
    def num_anchors(self) -> list[int]:
        """Number of anchors per pixel, for each feature map."""
        return [len(cell) for cell in self.cell_anchors]

    num_cell_anchors = num_anchors

    def generate_cell_anchors(self, sizes=(32, 64, 128, 256, 512), aspect_ratios=(0.5, 1, 2)) -> torch.Tensor:
        """Return the anchors with center (0, 0).

        Returns:
            (num_sizes * num_ratios, 4) XYXY: all ratios of the first size, then all ratios of the next one.
        """
        anchors = []
        for size in sizes:
            for ratio in aspect_ratios:
                width = math.sqrt(size**2.0 / ratio)
                height = ratio * width
                anchors.append([-width / 2.0, -height / 2.0, width / 2.0, height / 2.0])
        return torch.tensor(anchors, dtype=torch.float32)

    def forward(self, features: list[torch.Tensor]) -> list[Boxes]:
        """Generate the anchors of each feature map.

        Args:
            features: feature maps (N, C, Hi, Wi). Only their sizes are used.

        Returns:
            (Hi * Wi * A, 4) boxes in image pixels per feature map, where A is the number of anchors per pixel. The
            order is row by row, and the A anchors of a pixel follow each other.
        """
        anchors = []
        for feature, stride, cell in zip(features, self.strides, self.cell_anchors):
            y, x = ((torch.arange(n, device=cell.device) + self.offset) * stride for n in feature.shape[-2:])
            y, x = torch.meshgrid(y.to(cell.dtype), x.to(cell.dtype), indexing="ij")
            centers = torch.stack((x, y, x, y), dim=-1)
            anchors.append(Boxes((centers[:, :, None] + cell).reshape(-1, 4)))
        return anchors


def build_anchor_generator(cfg, input_shape: list[ShapeSpec]) -> nn.Module:
    """Build the generator ``cfg.MODEL.ANCHOR_GENERATOR.NAME`` for feature maps of these shapes."""
    return ANCHOR_GENERATOR_REGISTRY.get(cfg.MODEL.ANCHOR_GENERATOR.NAME)(cfg, input_shape)
