"""The augmentations of Detectron2's default training: resize, flip, crop."""

from __future__ import annotations

import sys

import numpy as np
from fvcore.transforms.transform import CropTransform, HFlipTransform, NoOpTransform, Transform, VFlipTransform

from .augmentation import Augmentation
from .transform import BILINEAR, ResizeTransform


class RandomFlip(Augmentation):
    """Flip with probability ``prob``, either horizontally or vertically."""

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False) -> None:
        if horizontal == vertical:
            raise ValueError(f"RandomFlip is horizontal or vertical, got {horizontal=}, {vertical=}; use two for both")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """A flip of the image, or none."""
        height, width = image.shape[:2]
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class ResizeShortestEdge(Augmentation):
    """Resize so that the shorter edge has a drawn length, or, if the longer one would exceed ``max_size``, less.

    Args:
        short_edge_length: with "range" the [min, max] to draw from, both included; with "choice" the lengths. 0: as is.
        max_size: longest allowed longer edge, pixels.
        sample_style: "range" or "choice".
        interp: PIL filter.
    """

    def __init__(
        self, short_edge_length: list[int] | tuple[int, ...] | int, max_size: int = sys.maxsize,
        sample_style: str = "range", interp: int = BILINEAR,
    ) -> None:
        assert sample_style in ("range", "choice"), f"sample_style is 'range' or 'choice', got {sample_style!r}"
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        if sample_style == "range" and len(short_edge_length) != 2:
            raise AssertionError(f"sample_style 'range' needs two short_edge_length, got {short_edge_length}")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """A resize, or nothing where the drawn length is 0."""
        height, width = image.shape[:2]
        if self.sample_style == "range":
            size = np.random.randint(self.short_edge_length[0], self.short_edge_length[1] + 1)
        else:
            size = np.random.choice(self.short_edge_length)
        if size == 0:
            return NoOpTransform()
        return ResizeTransform(height, width, *self.get_output_shape(height, width, size, self.max_size), self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """(height, width) after the resize of an (oldh, oldw) image, rounded half up."""
        scale = float(short_edge_length) / min(oldh, oldw)
        height, width = (short_edge_length, scale * oldw) if oldh < oldw else (scale * oldh, short_edge_length)
        if max(height, width) > max_size:
            scale = max_size * 1.0 / max(height, width)
            height, width = height * scale, width * scale
        return int(height + 0.5), int(width + 0.5)


class RandomCrop(Augmentation):
    """Crop a rectangle at a random place.

    Args:
        crop_type: how ``crop_size`` (two numbers, height first) gives the size for an (H, W) image:
            "relative": fractions of H and W; "relative_range": fractions drawn from [crop_size[i], 1];
            "absolute": pixels; "absolute_range": pixels, both drawn from [crop_size[0], crop_size[1]].
            Never more than the image has.
    """

    def __init__(self, crop_type: str, crop_size: tuple[float, float]) -> None:
        types = ("relative_range", "relative", "absolute", "absolute_range")
        assert crop_type in types, f"crop_type is one of {types}, got {crop_type!r}"
        self.crop_type, self.crop_size = crop_type, crop_size

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in pixels of a crop of an image of ``image_size`` (height, width)."""
        h, w = image_size
        if self.crop_type.startswith("absolute"):
            a, b = self.crop_size
            if self.crop_type == "absolute":
                return min(a, h), min(b, w)
            assert a <= b, f"absolute_range needs crop_size[0] <= crop_size[1], got {self.crop_size}"
            crop_h = np.random.randint(min(h, a), min(h, b) + 1)
            return crop_h, np.random.randint(min(w, a), min(w, b) + 1)
        if self.crop_type == "relative":
            fraction_h, fraction_w = self.crop_size
        else:
            least = np.asarray(self.crop_size, dtype=np.float32)
            fraction_h, fraction_w = least + np.random.rand(2) * (1 - least)
        return int(h * fraction_h + 0.5), int(w * fraction_w + 0.5)

    def get_transform(self, image: np.ndarray) -> Transform:
        """The crop."""
        h, w = image.shape[:2]
        crop_h, crop_w = self.get_crop_size((h, w))
        assert h >= crop_h and w >= crop_w, f"crop of {(crop_h, crop_w)} is larger than the image, {(h, w)}"
        y0 = np.random.randint(h - crop_h + 1)
        x0 = np.random.randint(w - crop_w + 1)
        return CropTransform(x0, y0, crop_w, crop_h)
