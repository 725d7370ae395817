"""ROIAlign as a module."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.ops import roi_align


class ROIAlign(nn.Module):
    """Average bilinear samples in every bin of every RoI (He et al., 2017).

    Args:
        output_size: (height, width) of the output, in bins.
        spatial_scale: 1 / stride of the feature map.
        sampling_ratio: samples per bin and axis. 0 means one per feature pixel.
        aligned: whether to shift RoIs by half a pixel, so that pixel centers are aligned ("ROIAlignV2").
    """

    def __init__(self, output_size, spatial_scale: float, sampling_ratio: int, aligned: bool = True) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Pool the features of K RoIs.

        Args:
            input: feature map (N, C, H, W).
            rois: (K, 5), index of the image in the batch, then XYXY in image pixels.

        Returns:
            (K, C, *output_size).
        """
        if rois.dim() != 2 or rois.shape[1] != 5:
            raise AssertionError(f"rois have shape {tuple(rois.shape)}, expected (K, 5)")
        return roi_align(
            input, rois.to(dtype=input.dtype), self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned
        )

    def extra_repr(self) -> str:
        """Return the arguments, for ``repr(module)``."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )
