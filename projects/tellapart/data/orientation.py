"""The EXIF orientation of images: how stored pixels are turned to be looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

ORIENTATION_TAG = 0x0112  # of EXIF and TIFF
_TRANSPOSES = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # orientation -> Pillow's method


def valid_orientation(value: Any) -> int:
    """Return an orientation from 1 to 8; 1, "not turned", for any other value of the tag."""
    return int(value) if value in range(1, 9) else 1


def image_orientation(image: Image.Image) -> int:
    """Return the orientation of an image, 1 if it has none or a broken EXIF block."""
    try:
        return valid_orientation(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # Pillow raises many types of errors for a broken EXIF block
        return 1


def turn_image(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image of Pillow as an orientation from 1 to 8 says."""
    return image if orientation == 1 else image.transpose(_TRANSPOSES[orientation])


def apply_orientation(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels, (H, W) or (H, W, C), as an orientation from 1 to 8 says."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
        orientation = {5: 1, 6: 2, 7: 3, 8: 4}[orientation]
    flips = {1: (), 2: (1,), 3: (0, 1), 4: (0,)}[orientation]
    return np.flip(array, flips) if flips else array
