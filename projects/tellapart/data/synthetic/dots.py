"""
`dots_*` and `dots_jittered_*`: identical white dots on a regular grid over a black image, alone and slightly scattered.

The synthetic experiment of Novotny et al., "Semi-convolutional Operators for Instance Segmentation" (ECCV 2018,
figure 3). Its layout is ours, since the paper gives no sizes. On the plain grid every dot sees the same pixels
around it as its neighbours, as far as a receptive field does not reach the image's border, so nothing that is
translation-invariant can tell them apart. Three choices see to that:

- Every dot is the same pixels, moved by whole pixels.
- The pitch is a multiple of `STRIDE`, or dots would fall differently on the grid of a strided feature map, and differ
  there; on maps of up to that stride (ResNet's `res2`, where the paper cuts its network) they don't.
- The grid covers the whole image, and a dot that the border would cut is left out: a partial dot could be told by its
  shape. What is left of the border is a black margin narrower than a pitch; padding betrays the border anyway.

Pitch and phase change from image to image, so that places can't be learned by heart; no grid is in two splits. In the
jittered series a dot lies a few pixels off its place, and its neighbourhood does tell it from others.
"""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np

from .dataset import SyntheticDataset

SIZE = 128  # image height and width, pixels
RADIUS = 5  # pixels: a dot is 11 wide and high
STRIDE = 4  # pixels; see above
PITCHES = (16, 20, 24)  # pixels from dot to dot: 4 to 8 rows and, drawn apart from them, columns

_WIDTH = 2 * RADIUS + 1
DOT = cv2.circle(np.zeros((_WIDTH, _WIDTH), np.uint8), (RADIUS, RADIUS), RADIUS, 255, cv2.FILLED)
"""uint8 (11, 11): the pixels of every dot, 0 and 255."""


def draw_dots(seed: int, index: int, jittered: bool = False) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """
    Image `index` of the endless series that `seed` stands for; it depends on nothing else. Seeds of different parity
    have no grid in common.

    With `jittered`, each dot is moved by whole pixels, as far along either axis as leaves a black pixel between any
    two: up to 2, 4 or 6 for the three pitches.

    Returns:
        the image, uint8 (SIZE, SIZE) grey, 0 and 255, and for each dot class index 0 and its mask, bool (SIZE, SIZE),
        row by row.
    """
    rng = np.random.default_rng([seed, index])
    while True:
        pitch = rng.choice(PITCHES, 2)  # of rows and columns
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
