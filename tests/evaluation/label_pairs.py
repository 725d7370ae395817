"""Label images by seed, for comparing measures with StarDist's."""

from __future__ import annotations

import numpy as np

# (seed, number of discs, shift in pixels, share of the discs that are left out) of the true and of the found image.
CASES = [
    ((0, 30, 0, 0.0), (0, 30, 1, 0.1)),
    ((1, 40, 0, 0.0), (1, 40, 2, 0.3)),
    ((2, 20, 0, 0.2), (2, 20, 0, 0.0)),
    ((3, 25, 0, 0.0), (4, 25, 0, 0.0)),
]  # fmt: skip


def label_image(seed: int, number: int, shift: int, left_out: float) -> np.ndarray:
    """Return a label image, int32 (96, 96), of discs that do not overlap: the first one drawn stays."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((96, 96), np.int32)
    y, x = np.mgrid[:96, :96]
    for i in range(1, number + 1):
        cy, cx, radius, draw = *rng.uniform(5, 91, 2), rng.uniform(3, 9), rng.random()
        inside = (y - cy - shift) ** 2 + (x - cx - shift) ** 2 < radius**2
        if draw >= left_out:
            labels[inside & (labels == 0)] = i
    return labels
