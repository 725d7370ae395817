"""
`worms_train` / `worms_val`: crossing worms as one binary silhouette, an endless stand-in for BBBC010.

BBBC010 (C. elegans, https://bbbc.broadinstitute.org/BBBC010; `datasets/prepare_bbbc010.py`) has 100 images. These are
drawn to its statistics: number, length, width, bend and overlap of the worms, and that every image shows either dead
worms, nearly straight, or living ones, curled. `tests/data/test_worms.py` measures both and holds them together. As
there, a mask is the whole body, also where another lies across it, and the image is the union of the masks.

The images have BBBC010's size as well, so the same config trains on both: a network can learn from these first
(`configs/quick/mask_rcnn/mask_rcnn_R_18_FPN_worms.yaml`) and from the hundred real ones after.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from .dataset import SyntheticDataset

HEIGHT, WIDTH = 520, 696  # pixels

_NUMBER = {11: 0.04, 12: 0.05, 13: 0.17, 14: 0.28, 15: 0.46}  # how often an image has so many worms, as in BBBC010
_WELL = (344.0, 284.0), 230.0  # the round well that holds the worms: mean centre (x, y) and radius
_WELL_SPREAD = 14.0  # standard deviation of its centre
_LENGTH = (122.0, 10.0)  # of a body: mean and standard deviation
_RADIUS = (4.3, 0.4)  # of its thickest part
_KNOTS = 41  # points on the centreline, less than a radius apart
_WAVE = 0.09  # standard deviation of the Gaussian that smooths the curvature, of the length
_ALIVE = 0.5  # of the images
_BEND = {True: (1.1, 0.75), False: (-1.05, 0.7)}  # alive?: mean, standard deviation of log(radians per length)
_TIGHTEST = 11.0  # a body's smallest radius of curvature; tighter ones would curl up to a blob
_CROSSING = 60.0  # pixels of area: a worm that lies so far on others is left there with probability 1 / e


def draw_worms(seed: int, index: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """
    Image `index` of the endless series that `seed` stands for; it depends on nothing else.

    Returns:
        the silhouette of all worms, uint8 (HEIGHT, WIDTH) grey, 0 and 255, and for each worm class index 0 and its
        whole body, bool (HEIGHT, WIDTH). The bodies may overlap; none reaches the image's border.
    """
    rng = np.random.default_rng([seed, index])
    number = rng.choice(list(_NUMBER), p=list(_NUMBER.values()))
    alive = rng.random() < _ALIVE
    (x, y), radius = _WELL
    well = np.array((x, y)) + rng.normal(0, _WELL_SPREAD, 2)
    bodies: list[np.ndarray] = []
    taken = np.zeros((HEIGHT, WIDTH), bool)
    while len(bodies) < number:
        line = _centreline(rng, alive)
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


def _centreline(rng: np.random.Generator, alive: bool) -> np.ndarray:
    """(_KNOTS, 2) float64 x, y in pixels, with the mean at 0: a line whose curvature changes smoothly at random."""
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
    """(..., 2): the unit vectors x, y at `angle`, radians."""
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _draw_body(line: np.ndarray, radius: float) -> np.ndarray:
    """bool (HEIGHT, WIDTH): discs of `radius` along `line`, smaller ones towards both ends."""
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
