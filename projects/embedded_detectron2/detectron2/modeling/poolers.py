"""RoI pooling from the levels of a feature pyramid."""

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
    """Assign each box to a level by its size (Lin et al., 2017, Eq. 1).

    Args:
        box_lists: boxes in image pixels, one ``Boxes`` per image.
        min_level, max_level: levels are clamped to this range.
        canonical_box_size: square root of the area, in pixels, of a box on ``canonical_level``. A box with sides twice
            as long is one level higher.
        canonical_level: see ``canonical_box_size``.

    Returns:
        level - ``min_level`` for the boxes of all images, int64 (M,).
    """
    sizes = torch.sqrt(cat([boxes.area() for boxes in box_lists]))
    # 1e-8 avoids log2(0).
    levels = torch.floor(canonical_level + torch.log2(sizes / canonical_box_size + 1e-8))
    return levels.clamp(min=min_level, max=max_level).to(torch.int64) - min_level


def convert_boxes_to_pooler_format(box_lists: list[Boxes]) -> torch.Tensor:
    """Concatenate the boxes of all images to (M, 5): index of the image in the batch, then XYXY."""
    columns = [torch.cat([b.tensor.new_full((len(b), 1), i), b.tensor], dim=1) for i, b in enumerate(box_lists)]
    return torch.cat(columns)


class ROIPooler(nn.Module):
    """Pool features of each box from the pyramid level that `assign_boxes_to_levels` chooses.

    Args:
        output_size: size of the pooled features, an int or (height, width).
        scales: 1 / stride of each level, from the finest to the coarsest. Each is half of the one before.
        sampling_ratio: see ``ROIAlign``.
        pooler_type: "ROIAlignV2", or "ROIAlign" for ROIAlign without the shift by half a pixel.
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
            raise ValueError(f"POOLER_TYPE is {pooler_type!r}, expected 'ROIAlignV2' or 'ROIAlign'")
        self.level_poolers = nn.ModuleList(poolers)
        levels = [-math.log2(scale) for scale in scales]
        self.min_level, self.max_level = round(levels[0]), round(levels[-1])
        if len(self.output_size) != 2 or levels != list(range(self.min_level, self.min_level + len(levels))):
            raise AssertionError(f"expected (height, width) and scales that halve, got {self.output_size} and {scales}")
        self.canonical_box_size = canonical_box_size
        self.canonical_level = canonical_level

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        """Pool the features of all boxes.

        Args:
            x: feature maps (N, C, H, W), one per scale.
            box_lists: boxes in image pixels, one ``Boxes`` per image, M boxes in total.

        Returns:
            (M, C, *output_size), in the order of the boxes.
        """
        if not isinstance(x, list) or not isinstance(box_lists, list) or len(x) != len(self.level_poolers):
            raise AssertionError(f"expected a list of {len(self.level_poolers)} feature maps and a list of Boxes")
        if len(box_lists) != len(x[0]):
            raise AssertionError(f"the feature maps have {len(x[0])} images, but there are {len(box_lists)} Boxes")
        if not box_lists:
            return x[0].new_zeros((0, x[0].shape[1], *self.output_size))
        rois = convert_boxes_to_pooler_format(box_lists)
        # Pooled in the dtype of the boxes, because float16 cannot represent coordinates of large images.
        dtype = x[0].dtype
        x = [feature.to(rois.dtype) for feature in x]
        if len(x) == 1:
            return self.level_poolers[0](x[0], rois).to(dtype)
        sizes = (self.canonical_box_size, self.canonical_level)
        levels = assign_boxes_to_levels(box_lists, self.min_level, self.max_level, *sizes)
        pooled = x[0].new_zeros((len(rois), x[0].shape[1], *self.output_size))
        for level, (feature, pooler) in enumerate(zip(x, self.level_poolers)):
            index = (levels == level).nonzero().flatten()
            # Levels without boxes are pooled too, so that DDP sees a (zero) gradient for every parameter.
            pooled.index_put_((index,), pooler(feature, rois[index]))
        return pooled.to(dtype)
