"""The augmentations that configs use: resize, flip, crop."""

from __future__ import annotations

import sys

import numpy as np
from fvcore.transforms.transform import CropTransform, HFlipTransform, NoOpTransform, Transform, VFlipTransform

from .augmentation import Augmentation
from .transform import BILINEAR, ResizeTransform


class RandomFlip(Augmentation):
    """Flip the image with probability ``prob``, either horizontally or vertically."""

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False) -> None:
        if horizontal == vertical:
            raise ValueError(f"RandomFlip got {horizontal=}, {vertical=}, expected one True: use two for both")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """Return a flip or `NoOpTransform`."""
        height, width = image.shape[:2]
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class ResizeShortestEdge(Augmentation):
    """Resize the shorter edge to a length chosen at random, keeping the aspect ratio.

    Args:
        short_edge_length: with "range", the smallest and the largest length, both included. With "choice", the lengths
            to choose from. The length 0 leaves the image as it is.
        max_size: largest length of the longer edge, in pixels. If it would be exceeded, both edges become shorter.
        sample_style: "range" or "choice".
        interp: filter of PIL.
    """

    def __init__(
        self,
        short_edge_length: list[int] | tuple[int, ...] | int,
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = BILINEAR,
    ) -> None:
        assert sample_style in ("range", "choice"), f"sample_style is {sample_style!r}, expected 'range' or 'choice'"
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        if sample_style == "range" and len(short_edge_length) != 2:
            raise AssertionError(f"short_edge_length is {short_edge_length}, expected (min, max) with 'range'")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """Return a resize, or `NoOpTransform` for the length 0."""
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
        """Return the (height, width) after the resize of an image (oldh, oldw), rounded half up."""
        scale = float(short_edge_length) / min(oldh, oldw)
        height, width = (short_edge_length, scale * oldw) if oldh < oldw else (scale * oldh, short_edge_length)
        if max(height, width) > max_size:
            scale = max_size * 1.0 / max(height, width)
            height, width = height * scale, width * scale
        return int(height + 0.5), int(width + 0.5)


class RandomCrop(Augmentation):
    """Crop a rectangle at a random position.

    Args:
        crop_type: meaning of ``crop_size``:

            - "relative": fractions of the image's height and width.
            - "relative_range": smallest fractions. The fractions are drawn from [crop_size[i], 1].
            - "absolute": height and width in pixels, at most those of the image.
            - "absolute_range": (min, max) in pixels, from which both height and width are drawn.
        crop_size: two numbers.
    """

    def __init__(self, crop_type: str, crop_size: tuple[float, float]) -> None:
        types = ("relative_range", "relative", "absolute", "absolute_range")
        assert crop_type in types, f"crop_type is {crop_type!r}, expected one of {types}"
        self.crop_type, self.crop_size = crop_type, crop_size

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of a crop of an image of size ``image_size``, in pixels."""
        h, w = image_size
        if self.crop_type.startswith("absolute"):
            a, b = self.crop_size
            if self.crop_type == "absolute":
                return min(a, h), min(b, w)
            assert a <= b, f"crop_size is {self.crop_size}, expected (min, max) with 'absolute_range'"
            crop_h = np.random.randint(min(h, a), min(h, b) + 1)
            return crop_h, np.random.randint(min(w, a), min(w, b) + 1)
        if self.crop_type == "relative":
            fraction_h, fraction_w = self.crop_size
        else:
            least = np.asarray(self.crop_size, dtype=np.float32)
            fraction_h, fraction_w = least + np.random.rand(2) * (1 - least)
        return int(h * fraction_h + 0.5), int(w * fraction_w + 0.5)

    def get_transform(self, image: np.ndarray) -> Transform:
        """Return a crop."""
        h, w = image.shape[:2]
        crop_h, crop_w = self.get_crop_size((h, w))
        assert h >= crop_h and w >= crop_w, f"crop size {(crop_h, crop_w)} is larger than the image size {(h, w)}"
        y0 = np.random.randint(h - crop_h + 1)
        x0 = np.random.randint(w - crop_w + 1)
        return CropTransform(x0, y0, crop_w, crop_h)
