"""Resizing with PIL, which fvcore does not have."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.transforms.transform import Transform
from PIL import Image

BILINEAR = int(Image.Resampling.BILINEAR)
_TORCH_MODE = {
    Image.Resampling.NEAREST: "nearest",
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
}


class ResizeTransform(Transform):
    """Resize from (h, w) to (new_h, new_w) pixels. ``interp`` is a filter of PIL, by default bilinear."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        super().__init__()
        self.h, self.w = h, w
        self.new_h, self.new_w = new_h, new_w
        self.interp = BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize an image (h, w) or (h, w, C).

        uint8 images are resized with PIL, which applies an anti-aliasing filter, the others with torch, which does not.

        Raises:
            AssertionError: the image has another size, or more than 3 dimensions.
        """
        assert img.shape[:2] == (self.h, self.w), f"image has the size {img.shape[:2]}, expected {(self.h, self.w)}"
        assert img.ndim <= 3, f"image has the shape {img.shape}, expected (H, W) or (H, W, C)"
        interp = Image.Resampling(self.interp if interp is None else interp)
        single_channel = img.ndim == 3 and img.shape[2] == 1
        if img.dtype == np.uint8:
            resized = Image.fromarray(img[:, :, 0] if single_channel else img).resize((self.new_w, self.new_h), interp)
            return np.asarray(resized)[:, :, None] if single_channel else np.asarray(resized)
        planes = torch.from_numpy(np.ascontiguousarray(img)).reshape(self.h, self.w, -1).permute(2, 0, 1)[None]
        mode = _TORCH_MODE[interp]
        align_corners = None if mode == "nearest" else False
        planes = F.interpolate(planes, (self.new_h, self.new_w), mode=mode, align_corners=align_corners)
        return planes[0].permute(1, 2, 0).reshape(self.new_h, self.new_w, *img.shape[2:]).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale coordinates (N, 2), x and y, in place. Integers are rounded toward zero."""
        coords[:, 0] = coords[:, 0] * (self.new_w * 1.0 / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h * 1.0 / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize a label image (h, w) with nearest-neighbor interpolation."""
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST)

    def inverse(self) -> ResizeTransform:
        """Return the resize back to (h, w)."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)
