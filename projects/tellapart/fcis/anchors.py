"""The anchors of the authors' FCIS code."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY, DefaultAnchorGenerator


@ANCHOR_GENERATOR_REGISTRY.register()
class WholeSideAnchorGenerator(DefaultAnchorGenerator):
    """Detectron2's anchors, but with the sides of the authors' code.

    There, each aspect ratio gives one base anchor with the area stride * stride, whose sides are rounded to whole
    pixels (23 x 12, 16 x 16 and 11 x 22 at stride 16). It is then multiplied by size / stride. With ``offset`` 0.5 the
    centers are the authors' too: there, boxes include their last pixel, and the first center is at 7.5.

    Args:
        sizes: see ``DefaultAnchorGenerator``.
        aspect_ratios: height / width, see ``DefaultAnchorGenerator``.
        strides: stride of each feature map, in image pixels.
        offset: center of the first anchor as a fraction of the stride.
    """

    @configurable
    def __init__(
        self, *, sizes: list[list[float]], aspect_ratios: list[list[float]], strides: list[int], offset: float = 0.5
    ) -> None:
        super().__init__(sizes=sizes, aspect_ratios=aspect_ratios, strides=strides, offset=offset)
        for anchors, stride in zip(self.cell_anchors, strides):
            anchors.copy_(whole_side_anchors(anchors, stride))


def whole_side_anchors(anchors: torch.Tensor, stride: int) -> torch.Tensor:
    """Return anchors (A, 4) XYXY around (0, 0) with the same areas and ratios, but whole sides at the area stride^2."""
    width, height = (anchors[:, 2:] - anchors[:, :2]).double().unbind(1)
    # rounded to the config's values, since the anchors are float32: 23 * 0.5 must be a half, which is rounded to even
    ratio, scale = (height / width).round(decimals=4), ((width * height).sqrt() / stride).round(decimals=4)
    base_width = (stride / ratio.sqrt()).round()
    base_height = (base_width * ratio).round()
    half = torch.stack((base_width, base_height), 1) * scale[:, None] / 2
    return torch.cat((-half, half), 1).to(anchors.dtype)
