"""ROI pooling from the levels of a pyramid."""

from __future__ import annotations

import math

import torch
from torch import nn

from detectron2._missing import not_included
from detectron2.layers import ROIAlign, cat
from detectron2.structures import Boxes

__all__ = ["ROIPooler"]


def assign_boxes_to_levels(
    box_lists: list[Boxes], min_level: int, max_level: int, canonical_box_size: int, canonical_level: int
) -> torch.Tensor:
    """Eq. 1 of the FPN paper: a box of ``canonical_box_size`` pixels belongs to ``canonical_level``, one twice as large
    to the next, within ``min_level`` to ``max_level``. Gives level - ``min_level``, int64, for all boxes in a row.
    """
    sizes = torch.sqrt(cat([boxes.area() for boxes in box_lists]))
    # the small number keeps log2(0) finite
    levels = torch.floor(canonical_level + torch.log2(sizes / canonical_box_size + 1e-8))
    return levels.clamp(min=min_level, max=max_level).to(torch.int64) - min_level


def convert_boxes_to_pooler_format(box_lists: list[Boxes]) -> torch.Tensor:
    """Boxes of N images to (M, 5): index of the image in the batch, XYXY."""
    columns = [torch.cat([b.tensor.new_full((len(b), 1), i), b.tensor], dim=1) for i, b in enumerate(box_lists)]
    return torch.cat(columns)


class ROIPooler(nn.Module):
    """Pools each box from the level that fits its size.

    Args:
        output_size: an int or (height, width).
        scales: 1 / stride of each feature map, fine to coarse, each half the one before.
        sampling_ratio: see ``ROIAlign``.
        pooler_type: ROIAlignV2, ROIAlign (half a pixel off, as in old models) or ROIPool.
        canonical_box_size, canonical_level: see ``assign_boxes_to_levels``.
    """

    def __init__(
        self, output_size, scales, sampling_ratio: int, pooler_type: str, canonical_box_size=224, canonical_level=4
    ) -> None:
        super().__init__()
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        if pooler_type in ("ROIAlign", "ROIAlignV2"):
            aligned = pooler_type == "ROIAlignV2"
            poolers = [ROIAlign(self.output_size, scale, sampling_ratio, aligned=aligned) for scale in scales]
        elif pooler_type in ("ROIPool", "ROIAlignRotated"):
            raise not_included(f"POOLER_TYPE {pooler_type}")
        else:
            raise ValueError(f"Unknown pooler type: {pooler_type}; wanted ROIAlignV2, ROIAlign or ROIPool")
        self.level_poolers = nn.ModuleList(poolers)
        levels = [-math.log2(scale) for scale in scales]
        self.min_level, self.max_level = round(levels[0]), round(levels[-1])
        if len(self.output_size) != 2 or levels != list(range(self.min_level, self.min_level + len(levels))):
            raise AssertionError(f"wanted (h, w) and the scales of a pyramid, got {self.output_size} and {scales}")
        self.canonical_box_size = canonical_box_size
        self.canonical_level = canonical_level

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        """Feature maps (N, C, H, W), one a scale, and each image's boxes in image pixels, M in all, to
        (M, C, *output_size)."""
        if not isinstance(x, list) or not isinstance(box_lists, list) or len(x) != len(self.level_poolers):
            raise AssertionError(f"wanted a list of {len(self.level_poolers)} feature maps and a list of Boxes")
        if len(box_lists) != len(x[0]):
            raise AssertionError(f"the feature maps are of {len(x[0])} images, the boxes of {len(box_lists)}")
        rois = convert_boxes_to_pooler_format(box_lists)
        # pooled in the boxes' precision: half precision cannot hold coordinates of large images
        dtype = x[0].dtype
        x = [feature.to(rois.dtype) for feature in x]
        if len(x) == 1:
            return self.level_poolers[0](x[0], rois).to(dtype)
        sizes = (self.canonical_box_size, self.canonical_level)
        levels = assign_boxes_to_levels(box_lists, self.min_level, self.max_level, *sizes)
        pooled = x[0].new_zeros((len(rois), x[0].shape[1], *self.output_size))
        for level, (feature, pooler) in enumerate(zip(x, self.level_poolers)):
            inside = (levels == level).nonzero().flatten()
            # empty levels too: in distributed training every parameter must take part
            pooled.index_put_((inside,), pooler(feature, rois[inside]))
        return pooled.to(dtype)
