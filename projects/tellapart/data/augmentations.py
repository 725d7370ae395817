"""Augmentations for objects without an up and down, and for the variety of stains, lamps and cameras."""

from __future__ import annotations

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from fvcore.transforms.transform import (
    BlendTransform,
    HFlipTransform,
    NoOpTransform,
    Transform,
    TransformList,
    VFlipTransform,
)

from ..validation import check_keys


class TransposeTransform(Transform):
    """Exchange x and y of an image (H, W) or (H, W, C)."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Return the image (W, H) or (W, H, C)."""
        return np.ascontiguousarray(img.swapaxes(0, 1))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Return points (N, 2), x before y."""
        return coords[:, ::-1]

    def inverse(self) -> Transform:
        """Return the same transform."""
        return self


class RandomDihedral(T.Augmentation):
    """One of the eight rotations by 90 degrees and reflections; pixels are only moved."""

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw whether x and y are exchanged, and whether each of them is flipped."""
        transpose, flip_x, flip_y = (self._rand_range() < 0.5 for _ in range(3))
        height, width = image.shape[:2]
        if transpose:
            height, width = width, height
        drawn = ((transpose, TransposeTransform()), (flip_x, HFlipTransform(width)), (flip_y, VFlipTransform(height)))
        return TransformList([transform for is_drawn, transform in drawn if is_drawn])


class PixelTransform(Transform):
    """Blur an image and add noise; coordinates and masks stay."""

    def __init__(self, blur: float, noise: np.ndarray | None) -> None:
        """Store the standard deviation of the blur, in pixels, and the noise, float (H, W, C)."""
        super().__init__()
        self.blur, self.noise = blur, noise

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Return the image, of the same type."""
        result = img.astype(np.float32)
        if self.blur > 0:
            result = cv2.GaussianBlur(result, (0, 0), self.blur).reshape(img.shape)
        if self.noise is not None:
            result = result + self.noise
        return result.round().clip(0, 255).astype(np.uint8) if img.dtype == np.uint8 else result.astype(img.dtype)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Return the points as they are."""
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Return the mask as it is."""
        return segmentation


class RandomAppearance(T.Augmentation):
    """Change brightness and contrast, blur, and add noise, each by a random amount.

    Args:
        brightness, contrast: largest relative change, such as 0.3 for factors of 0.7 to 1.3.
        blur: largest standard deviation of a Gaussian, in pixels of the network's input.
        noise: largest standard deviation of the noise, as a fraction of the image's range of values.
    """

    def __init__(self, brightness: float, contrast: float, blur: float, noise: float) -> None:
        super().__init__()
        self.brightness, self.contrast, self.blur, self.noise = brightness, contrast, blur, noise

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw the amounts, uniformly."""
        brightness, contrast = (1 + float(self._rand_range(-most, most)) for most in (self.brightness, self.contrast))
        blur, noise = float(self._rand_range(0, self.blur)), float(self._rand_range(0, self.noise))
        transforms = [
            BlendTransform(np.zeros(1, np.float32), 1 - brightness, brightness) if self.brightness else NoOpTransform(),
            BlendTransform(np.float32(image.mean()), 1 - contrast, contrast) if self.contrast else NoOpTransform(),
        ]
        values = None
        if noise:
            span = 255.0 if image.dtype == np.uint8 else float(np.ptp(image))
            values = np.random.normal(0, noise * span, image.shape).astype(np.float32)
        if blur or noise:
            transforms.append(PixelTransform(blur, values))
        return TransformList(transforms)


def build_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Return the augmentations that ``cfg.INPUT.AUGMENTATION`` adds to Detectron2's, in training.

    Raises:
        InputError: a value is invalid.
    """
    options = cfg.INPUT.AUGMENTATION
    below_one = (("BRIGHTNESS", "CONTRAST", "NOISE"), lambda value: 0 <= value < 1, "from 0 to below 1")
    fraction = (("COPY_PASTE",), lambda value: 0 <= value <= 1, "a probability from 0 to 1")
    any_positive = (("BLUR",), lambda value: 0 <= value < 100, "0 or more pixels")
    checks = [
        (key, test(options[key]), text) for keys, test, text in (below_one, fraction, any_positive) for key in keys
    ]
    check_keys("INPUT.AUGMENTATION", options, checks)
    added = [RandomDihedral()] if options.DIHEDRAL else []
    amounts = (options.BRIGHTNESS, options.CONTRAST, options.BLUR, options.NOISE)
    return [*added, RandomAppearance(*amounts)] if any(amounts) else added
