"""Pictures of instance colourings: an image, its true instances and several predictions, in colours side by side."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np

from .drawing import captioned, fitted, write_rows

_TILE = 256  # longest side of an image, pixels


def write_colorings(path: Path, rows: list[tuple[np.ndarray, list[tuple[str, np.ndarray | None]]]]) -> None:
    """Writes a PNG. A predicted instance has the colour of the true one that it shares most pixels with, each colour
    once; so predictions that are right look like the truth, whatever their order.

    Args:
        path: of the PNG; its folder is made.
        rows: each an image, uint8 BGR (H, W, 3), and its tiles: a caption and masks, bool (N, H, W), of which the first
            tile's that has any are the truth; None: the image as it is.
    """
    drawn = []
    for image, tiles in rows:
        truth = next(masks for _, masks in tiles if masks is not None)
        drawn.append([captioned(_colored(image, masks, truth), caption) for caption, masks in tiles])
    write_rows(path, *drawn)


def match_colors(masks: np.ndarray, truth: np.ndarray) -> list[int]:
    """For each of bool masks (N, H, W) an index no other has: of the true mask (M, H, W) that it shares most pixels
    with (the largest share first), or from M on for those that share none."""
    shared = np.tensordot(masks.astype(np.float32), truth.astype(np.float32), ((1, 2), (1, 2)))
    index = np.full(len(masks), -1)
    while shared.size and shared.max() > 0:
        found, true = np.unravel_index(shared.argmax(), shared.shape)
        index[found] = true
        shared[found], shared[:, true] = 0, 0
    rest = np.flatnonzero(index < 0)
    index[rest] = len(truth) + np.arange(len(rest))
    return index.tolist()


def _color(index: int) -> np.ndarray:
    """BGR. Hues are far apart from one index to the next; strong, pale and dark take turns, so that those of two rows
    of a grid differ as well."""
    saturation, value = ((0.95, 1.0), (0.45, 1.0), (0.9, 0.65))[index % 3]
    return np.array(colorsys.hsv_to_rgb((0.02 + index * 0.618034) % 1, saturation, value)[::-1]) * 255


def _colored(image: np.ndarray, masks: np.ndarray | None, truth: np.ndarray) -> np.ndarray:
    picture = image
    if masks is not None:
        picture = image // 4  # darker: what has no colour can be told from what has
        for mask, index in zip(masks, match_colors(masks, truth)):
            picture[mask] = _color(index)
    return fitted(picture, _TILE)
