"""Colours that are easy to tell apart."""

from __future__ import annotations

import colorsys

import numpy as np

# Hues a golden angle apart: neighbours differ most, whatever the number; every third one darker, every third paler.
_COLORS = np.array(
    [colorsys.hsv_to_rgb(i * 0.618034 % 1, (0.95, 0.9, 0.55)[i % 3], (0.95, 0.6, 1.0)[i % 3]) for i in range(74)],
    dtype=np.float32,
)


def colormap(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """Float32 (N, 3) colours, RGB or BGR, in 0..``maximum`` (255 or 1)."""
    assert maximum in (1, 255), f"maximum is 1 or 255, got {maximum}"
    return (_COLORS if rgb else _COLORS[:, ::-1]) * maximum


def random_color(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """One of the colours, (3,), drawn with numpy's generator."""
    return colormap(rgb, maximum)[np.random.randint(len(_COLORS))]
