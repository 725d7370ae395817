"""``worms_train`` and ``worms_val``: crossing worms as one binary silhouette, in any number of images, like BBBC010.

BBBC010 (C. elegans, https://bbbc.broadinstitute.org/BBBC010; ``datasets/prepare_bbbc010.py``) has 100 images. The
synthetic images follow its statistics: number, length, width, bend and overlap of the worms. As in BBBC010, an image
has either dead worms, which are almost straight, or living worms, which are curled.
``tests/data/synthetic/test_worms.py`` compares the statistics. A mask is the whole body, also where another worm
crosses it, and the image is the union of the masks.

The images have the size of BBBC010's, so the same config trains on both. A network can be pre-trained on these images
(``configs/quick/mask_rcnn/mask_rcnn_R_18_FPN_worms.yaml``).
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from .dataset import SyntheticDataset

HEIGHT, WIDTH = 520, 696  # pixels

_NUMBER = {11: 0.04, 12: 0.05, 13: 0.17, 14: 0.28, 15: 0.46}  # number of worms per image: its frequency in BBBC010
_WELL = (344.0, 284.0), 230.0  # the round well: mean center (x, y) and radius, pixels
_WELL_SPREAD = 14.0  # standard deviation of the center, pixels
_LENGTH = (122.0, 10.0)  # of a body, pixels: mean and standard deviation
_RADIUS = (4.3, 0.4)  # of its thickest part, pixels: mean and standard deviation
_KNOTS = 41  # points on the centerline, less than a radius apart
_WAVE = 0.09  # standard deviation of the Gaussian that smooths the curvature, in body lengths
_ALIVE = 0.5  # fraction of images with living worms
_BEND = {True: (1.1, 0.75), False: (-1.05, 0.7)}  # of log(bend in radians), by whether alive: mean, standard deviation
_TIGHTEST = 11.0  # smallest radius of curvature, pixels; tighter bodies would become a blob
_CROSSING = 60.0  # pixels; a worm that overlaps others by this area is kept with probability 1 / e


def draw_worms(seed: int, index: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Draw one image. The result depends only on ``seed`` and ``index``.

    Returns:
        The silhouette of all worms, uint8 (HEIGHT, WIDTH) gray, 0 and 255, and per worm class index 0 and the mask of
        its whole body, bool (HEIGHT, WIDTH). Bodies may overlap, and none touches the image border.
    """
    rng = np.random.default_rng([seed, index])
    number = rng.choice(list(_NUMBER), p=list(_NUMBER.values()))
    alive = rng.random() < _ALIVE
    (x, y), radius = _WELL
    well = np.array((x, y)) + rng.normal(0, _WELL_SPREAD, 2)
    bodies: list[np.ndarray] = []
    taken = np.zeros((HEIGHT, WIDTH), bool)
    while len(bodies) < number:
        line = _centerline(rng, alive)
        line += well + radius * math.sqrt(rng.random()) * _direction(rng.uniform(0, 2 * math.pi))
        low, high = line.min(axis=0), line.max(axis=0)
        if (
            np.linalg.norm(line - well, axis=1).max() > radius
            or low.min() < 8
            or (high > (WIDTH - 9, HEIGHT - 9)).any()
        ):
            continue
        body = _draw_body(line, max(rng.normal(*_RADIUS), 3.0))
        if rng.random() >= math.exp(-np.count_nonzero(body & taken) / _CROSSING):
            continue
        bodies.append(body)
        taken |= body
    return taken.astype(np.uint8) * 255, [(0, body) for body in bodies]


def _centerline(rng: np.random.Generator, alive: bool) -> np.ndarray:
    """Return points (x, y) in pixels, float64 (_KNOTS, 2), with mean 0: a line with smooth random curvature."""
    length = rng.normal(*_LENGTH)
    at = np.linspace(-3, 3, int(6 * _WAVE * _KNOTS) | 1)
    kernel = np.exp(-(at**2) / 2)
    curvature = np.convolve(rng.standard_normal(_KNOTS + len(kernel) - 1), kernel / np.linalg.norm(kernel), "valid")
    bend = math.exp(rng.normal(*_BEND[alive]))
    turns = np.clip(bend * curvature, -length / _TIGHTEST, length / _TIGHTEST) / _KNOTS
    heading = rng.uniform(0, 2 * math.pi) + np.cumsum(turns)
    line = np.cumsum(_direction(heading), axis=0) * length / _KNOTS
    return line - line.mean(axis=0)


def _direction(angle: float | np.ndarray) -> np.ndarray:
    """Return the unit vectors (x, y) at ``angle``, radians; (..., 2)."""
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _draw_body(line: np.ndarray, radius: float) -> np.ndarray:
    """Draw discs along ``line``, with ``radius`` in the middle and smaller at both ends; bool (HEIGHT, WIDTH)."""
    body = np.zeros((HEIGHT, WIDTH), np.uint8)
    widths = radius * np.sqrt(1 - np.linspace(-0.95, 0.95, len(line)) ** 4)
    for (x, y), width in zip(np.rint(line * 16).astype(int).tolist(), np.rint(widths * 16).astype(int).tolist()):
        cv2.circle(body, (x, y), width, 1, cv2.FILLED, shift=4)
    return body > 0


WORMS = SyntheticDataset(
    name="worms",
    version=2,
    classes=("worm",),
    colors=((240, 160, 50),),
    splits={"train": (20188, 500), "val": (20189, 50)},
    draw=draw_worms,
)
