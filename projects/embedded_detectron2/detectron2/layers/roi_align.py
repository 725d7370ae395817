"""ROIAlign as a module."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.ops import roi_align


class ROIAlign(nn.Module):
    """Average of bilinear samples in every bin of every ROI.

    Args:
        output_size: (height, width) of the grid.
        spatial_scale: feature pixels per image pixel, 1 / stride.
        sampling_ratio: samples a bin and axis; 0 means as many as feature pixels.
        aligned: shift by half a pixel so that pixel centres line up (``ROIAlignV2``).
    """

    def __init__(self, output_size, spatial_scale: float, sampling_ratio: int, aligned: bool = True) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """``input`` (N, C, H, W), ``rois`` (K, 5) as batch index, XYXY image pixels; gives (K, C, *output_size)."""
        if rois.dim() != 2 or rois.shape[1] != 5:
            raise AssertionError(f"rois must have the shape (K, 5), got {tuple(rois.shape)}")
        return roi_align(
            input, rois.to(dtype=input.dtype), self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned
        )

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )
