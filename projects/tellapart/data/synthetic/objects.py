"""``objects_train`` and ``objects_val``: touching objects of one category in many forms, sizes and textures.

Pre-training for own data of few images: an image has blobs, ellipses, polygons or bent rods of similar size, alone or
in clusters, bright on dark or dark on bright, gray or in color, flat, shaded or with a rim, sharp or blurred, with
more or less noise. No picture of a real object is in it.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from .dataset import SyntheticDataset

SIZE = 192  # image height and width, pixels

_DIAMETER = (9.0, 64.0)  # of the disc of equal area, pixels; all objects of an image have about the same
_FILL = (0.04, 0.55)  # fraction of the image that objects cover
_MAX_OBJECTS = 90
_TOUCHING = 0.65  # fraction of the objects that are placed beside another one
_MIN_VISIBLE = 0.5  # fraction of an object that others may not cover
_MIN_AREA = 20  # pixels
_FORMS = {"blob": 0.4, "ellipse": 0.25, "polygon": 0.1, "rod": 0.25}  # and their frequency
_KNOTS = 64  # points on an outline
_SUBPIXEL = 4  # bits of cv2's coordinates


def draw_objects(seed: int, index: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Draw one image. The result depends only on ``seed`` and ``index``.

    Returns:
        The image, uint8 (SIZE, SIZE, 3) RGB, and per object class index 0 and the mask of its visible part, bool
        (SIZE, SIZE). The masks do not overlap.
    """
    rng = np.random.default_rng([seed, index])
    owner, number = _arrange(rng)
    image = _paint(rng, owner, number)
    return image, [(0, owner == i) for i in range(number)]


def _arrange(rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Return the object index per pixel, -1 for background, and the number of objects, at least one."""
    diameter = math.exp(rng.uniform(*np.log(_DIAMETER)))
    aim = rng.uniform(*_FILL) * SIZE**2 / (math.pi * diameter**2 / 4)
    form = rng.choice(list(_FORMS), p=list(_FORMS.values()))
    is_mixed, stretch = rng.random() < 0.2, rng.uniform(1.0, 2.2)
    aim = int(np.clip(aim, 1, _MAX_OBJECTS))
    owner, areas, places = np.full((SIZE, SIZE), -1, np.int16), [], []
    for _ in range(4 * aim):
        if len(areas) == aim:
            break
        radius = diameter / 2 * math.exp(rng.normal(0, 0.18))
        kind = rng.choice(list(_FORMS), p=list(_FORMS.values())) if is_mixed else form
        x, y = rng.uniform(0, SIZE, 2)
        if places and rng.random() < _TOUCHING:
            near_x, near_y, near_radius = places[rng.integers(len(places))]
            angle, distance = rng.uniform(0, 2 * math.pi), (radius + near_radius) * rng.uniform(0.75, 1.15)
            x, y = near_x + distance * math.cos(angle), near_y + distance * math.sin(angle)
        mask = _draw_form(rng, kind, x, y, radius, stretch)
        area = np.count_nonzero(mask)
        behind = rng.random() < 0.5
        new = np.where(mask & ((owner < 0) | (not behind)), len(areas), owner)
        visible = np.bincount(new[new >= 0], minlength=len(areas) + 1)
        required = np.maximum(_MIN_VISIBLE * np.array([*areas, area]), _MIN_AREA)
        if (visible >= required).all():
            owner, areas, places = new, [*areas, area], [*places, (x, y, radius)]
    return (owner, len(areas)) if areas else _arrange(rng)


def _draw_form(
    rng: np.random.Generator, form: str, x: float, y: float, radius: float, stretch: float
) -> np.ndarray:  # fmt: skip
    """Return the mask, bool (SIZE, SIZE), of an object at (x, y) whose area is about that of a disc of ``radius``."""
    mask, turn = np.zeros((SIZE, SIZE), np.uint8), rng.uniform(0, 2 * math.pi)
    if form == "rod":
        length, width = 3.0 * radius * math.sqrt(stretch), max(3.0, 1.0 * radius / math.sqrt(stretch))
        heading = turn + np.linspace(-1, 1, 24) * rng.normal(0, 0.5) + np.linspace(-1, 1, 24) ** 2 * rng.normal(0, 0.4)
        line = np.cumsum(np.stack((np.cos(heading), np.sin(heading)), 1), 0) * length / 24
        points = _fixed_point(line - line.mean(0) + (x, y))
        cv2.polylines(mask, [points], False, 1, max(1, round(width)), cv2.LINE_8, _SUBPIXEL)
        return mask > 0
    angles = np.linspace(0, 2 * math.pi, _KNOTS, endpoint=False)
    if form == "polygon":
        angles = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(4, 8)))
    ratio = stretch * math.exp(rng.normal(0, 0.1)) if form != "polygon" else 1.2
    outline = np.full(len(angles), radius)
    if form == "blob":
        for k in (2, 3, 4, 5):
            outline = outline * (1 + rng.normal(0, 0.22 / k) * np.cos(k * angles + rng.uniform(0, 2 * math.pi)))
        ratio = 1 + 0.3 * (ratio - 1)
    along, across = outline * np.cos(angles) * math.sqrt(ratio), outline * np.sin(angles) / math.sqrt(ratio)
    c, s = math.cos(turn), math.sin(turn)
    points = np.stack((x + c * along - s * across, y + s * along + c * across), 1)
    cv2.fillPoly(mask, [_fixed_point(points)], 1, cv2.LINE_8, _SUBPIXEL)
    return mask > 0


def _fixed_point(points: np.ndarray) -> np.ndarray:
    return np.rint((points - 0.5) * 2**_SUBPIXEL).astype(np.int32)


def _paint(rng: np.random.Generator, owner: np.ndarray, number: int) -> np.ndarray:
    """Render the image, uint8 (SIZE, SIZE, 3) RGB."""
    channels = 3 if rng.random() < 0.4 else 1
    contrast = rng.uniform(0.12, 0.8)
    low = rng.uniform(0.02, 0.98 - contrast)
    is_bright = rng.random() < 0.65
    background, foreground = (low, low + contrast) if is_bright else (low + contrast, low)
    tint = rng.normal(0, 0.12, (2, channels)) if channels == 3 else np.zeros((2, 1))
    image = np.ones((SIZE, SIZE, channels)) * (background + tint[0])
    image += rng.uniform(0, 0.25) * contrast * _clouds(rng, rng.uniform(15, 60), channels)
    level = foreground - background + contrast * rng.normal(0, rng.uniform(0, 0.25), (number, 1)) + tint[1] - tint[0]
    if channels == 3 and rng.random() < 0.3:  # every object has its color
        level = level + rng.normal(0, 0.15, (number, 3))
    inside = owner >= 0
    index = np.where(inside, owner, 0)
    depth = _depth(owner)
    profile = np.ones((SIZE, SIZE))
    shade = rng.choice(["flat", "dome", "rim", "core"], p=[0.4, 0.3, 0.2, 0.1])
    if shade != "flat":
        rise = 1 - np.exp(-depth / rng.uniform(1.5, 6.0))
        amount = rng.uniform(0.2, 0.7)
        profile = 1 - amount + amount * {"dome": rise, "rim": 1 - rise, "core": rise**4}[shade]
    texture = 1 + rng.uniform(0, 0.35) * _clouds(rng, rng.uniform(1.0, 8.0), 1)
    image += (inside * profile)[..., None] * texture * level[index]
    if rng.random() < 0.35:  # a dark or bright gap between touching objects, as of a membrane
        edge = (depth <= 1.5) & inside
        image += edge[..., None] * rng.normal(0, 0.35) * contrast
    sigma = rng.uniform(0, 1.6)
    if sigma > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), sigma).reshape(image.shape)
    image += rng.uniform(0, 0.08) * rng.standard_normal(image.shape)
    image = np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(image, (SIZE, SIZE, 3)))


def _depth(owner: np.ndarray) -> np.ndarray:
    """Return the distance of each pixel to the nearest pixel of another object or of the background, (SIZE, SIZE)."""
    padded = np.pad(owner, 1, mode="edge")
    core = padded[1:-1, 1:-1]
    shifted = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    is_inner = np.logical_and.reduce([core == other for other in shifted])
    return cv2.distanceTransform(is_inner.astype(np.uint8), cv2.DIST_L2, 5) + 1.0


def _clouds(rng: np.random.Generator, scale: float, channels: int) -> np.ndarray:
    """Return smooth noise of standard deviation 1, (SIZE, SIZE, channels), with features of ``scale`` pixels."""
    knots = max(2, round(SIZE / scale))
    noise = rng.standard_normal((knots, knots, channels))
    noise = cv2.resize(noise, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC).reshape(SIZE, SIZE, channels)
    return noise / max(noise.std(), 1e-6)


OBJECTS = SyntheticDataset(
    name="objects",
    version=1,
    classes=("object",),
    colors=((240, 160, 50),),
    splits={"train": (20191, 2000), "val": (20192, 100)},
    draw=draw_objects,
)
