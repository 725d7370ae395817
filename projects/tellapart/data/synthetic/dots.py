"""``dots_*`` and ``dots_jittered_*``: identical white dots on a black image, on a regular grid or with random offsets.

The synthetic experiment of Novotny et al., "Semi-convolutional Operators for Instance Segmentation" (ECCV 2018,
figure 3). The paper gives no sizes, so they are our choice. On the regular grid the surroundings of all dots are equal
within any receptive field that does not reach the image border, so a translation-invariant network cannot tell the dots
apart:

- All dots have the same pixels, shifted by whole pixels.
- The pitch is a multiple of ``STRIDE``. Dots therefore have the same alignment with every feature map of up to that
  stride, such as ResNet's ``res2``, after which the paper cuts its network.
- The grid covers the whole image. A dot that the border would cut is left out, because its shape would identify it.
  Only a black margin narrower than the pitch remains at the border.

Pitch and phase differ between images, so positions cannot be memorized, and no grid occurs in two splits. In the
jittered series the dots are shifted by a few pixels, so their surroundings do differ.
"""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np

from .dataset import SyntheticDataset

SIZE = 128  # image height and width, pixels
RADIUS = 5  # pixels; a dot is 11 pixels wide and high
STRIDE = 4  # pixels; the pitches are multiples of it
PITCHES = (16, 20, 24)  # pixels between dots; drawn separately for rows and columns, 4 to 8 of each

_WIDTH = 2 * RADIUS + 1
DOT = cv2.circle(np.zeros((_WIDTH, _WIDTH), np.uint8), (RADIUS, RADIUS), RADIUS, 255, cv2.FILLED)
"""The pixels of every dot, 0 and 255, uint8 (11, 11)."""


def draw_dots(seed: int, index: int, jittered: bool = False) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Draw one image. The result depends only on the arguments. An even and an odd seed never share a grid.

    Args:
        seed: of the series.
        index: of the image in the series.
        jittered: shift each dot by whole pixels, along each axis by at most 2, 4 or 6 for the three pitches. At least
            one black pixel remains between two dots.

    Returns:
        The image, uint8 (SIZE, SIZE) gray, 0 and 255, and per dot, row by row, class index 0 and its mask, bool
        (SIZE, SIZE).
    """
    rng = np.random.default_rng([seed, index])
    while True:
        pitch = rng.choice(PITCHES, 2)  # between rows, between columns
        phase = rng.integers(pitch)
        if (phase // STRIDE).sum() % 2 == seed % 2:
            break
    rows, columns = (np.arange(start, SIZE - _WIDTH + 1, step) for start, step in zip(phase, pitch))
    corners = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    if jittered:
        reach = (pitch - _WIDTH - 1) // 2
        corners = corners + rng.integers(-reach, reach, corners.shape, endpoint=True)
        corners = corners[((corners >= 0) & (corners <= SIZE - _WIDTH)).all(axis=1)]
    masks = np.zeros((len(corners), SIZE, SIZE), bool)
    for mask, (top, left) in zip(masks, corners):
        mask[top : top + _WIDTH, left : left + _WIDTH] = DOT > 0
    return masks.any(axis=0).astype(np.uint8) * 255, [(0, mask) for mask in masks]


DOTS = SyntheticDataset(
    name="dots",
    version=1,
    classes=("dot",),
    colors=((235, 235, 235),),
    splits={"train": (20184, 500), "val": (20185, 50)},
    draw=draw_dots,
)
DOTS_JITTERED = SyntheticDataset(
    name="dots_jittered",
    version=1,
    classes=DOTS.classes,
    colors=DOTS.colors,
    splits={"train": (20186, 500), "val": (20187, 50)},
    draw=partial(draw_dots, jittered=True),
)
