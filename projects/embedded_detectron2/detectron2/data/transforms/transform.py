"""The one transform that fvcore does not have: resizing with PIL."""

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
    """From (h, w) to (new_h, new_w) pixels. ``interp`` is one of PIL's filters, by default bilinear."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        super().__init__()
        self.h, self.w = h, w
        self.new_h, self.new_w = new_h, new_w
        self.interp = BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize (h, w) or (h, w, C): uint8 with PIL, which smooths when it shrinks; floats with torch, which does not.

        Raises:
            AssertionError: the image is not h x w, or has more than 3 dimensions.
        """
        assert img.shape[:2] == (self.h, self.w), f"image of {img.shape[:2]} for a resize of {(self.h, self.w)}"
        assert img.ndim <= 3, f"image must be (H, W) or (H, W, C), got {img.shape}"
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
        """Scale (N, 2) x, y in place. An integer array stays integer (cut towards zero)."""
        coords[:, 0] = coords[:, 0] * (self.new_w * 1.0 / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h * 1.0 / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize a label image (h, w) without mixing labels."""
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST)

    def inverse(self) -> ResizeTransform:
        """The resize back."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)
