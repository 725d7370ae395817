"""Bring pixels of any type to 8 bits."""

from __future__ import annotations

import numpy as np

# The habit of microscopy tools: hot and dead pixels beyond these percentiles are clipped.
PERCENTILES = (0.1, 99.9)


def scale_pixels(pixels: np.ndarray, scaling: str | tuple[float, float], per_channel: bool) -> np.ndarray:
    """Scale pixels linearly to 0 ... 255.

    Args:
        pixels: (H, W) or (H, W, C) of any real type.
        scaling: "auto": 8-bit pixels as they are, others as "percentile". "percentile": from ``PERCENTILES`` of the
            image; if these are equal, from its minimum and maximum. "full_range": from the range of the integer type;
            from 0 and 1 for floats. (low, high): from these values. "none": no scaling.
        per_channel: whether each channel has its own percentiles. False keeps colors.

    Returns:
        uint8 of the same shape; float32 for "none" and pixels that do not have 8 bits. NaN becomes the lowest value.
    """
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype == np.uint8 and scaling in ("auto", "full_range", "none"):
        return pixels
    if scaling == "none":
        return pixels.astype(np.float32)
    if isinstance(scaling, tuple):
        low, high = scaling
    elif scaling == "full_range":
        integer = np.issubdtype(pixels.dtype, np.integer)
        low, high = (np.iinfo(pixels.dtype).min, np.iinfo(pixels.dtype).max) if integer else (0.0, 1.0)
    elif per_channel and pixels.ndim == 3:
        return np.stack([scale_pixels(channel, scaling, False) for channel in np.moveaxis(pixels, 2, 0)], axis=2)
    else:
        low, high = _percentiles(pixels)
    if not high > low:
        return np.zeros(pixels.shape, np.uint8)  # a constant image
    scaled = (pixels.astype(np.float64) - low) * (255.0 / (high - low))
    return np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255).round().astype(np.uint8)


def _percentiles(pixels: np.ndarray) -> tuple[float, float]:
    """Return the lower and upper end of the range to scale from; (0, 0) for an image without a finite pixel."""
    values = pixels.ravel()
    if np.issubdtype(pixels.dtype, np.inexact):
        values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 0.0
    low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    return (low, high) if high > low else (float(values.min()), float(values.max()))
