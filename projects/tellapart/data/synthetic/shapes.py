"""``shapes_train`` and ``shapes_val``: discs, squares and triangles that touch and occlude each other.

The data set tests whether instances are separated. Every image has touching instances of one category. Area and color
do not depend on the category, and touching objects often have the same color, so only their shape separates them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .dataset import SyntheticDataset

CLASSES = ("disc", "square", "triangle")
SIZE = 128  # image height and width, pixels

_SIDES = (0, 4, 3)  # number of sides per class; 0: disc
_DIAMETER = (16.0, 44.0)  # of the disc of equal area, in pixels; a triangle of 44 has sides of 59 pixels
_MIN_OBJECTS = 4
_MAX_OBJECTS = 9
_MIN_VISIBLE = 0.2  # fraction of the whole object, including its part outside the image; at least 40 pixels
_ROW, _COL = np.mgrid[:SIZE, :SIZE].astype(np.float32) + 0.5  # pixel centers


@dataclass(frozen=True)
class _Shape:
    """Parameters of an object: class index, center (x, y), radius of the disc of equal area, angle, RGB color."""

    category: int
    x: float
    y: float
    radius: float
    angle: float
    color: np.ndarray

    def distance(self, col: np.ndarray = _COL, row: np.ndarray = _ROW) -> np.ndarray:
        """Return the signed distance (pixels, float32) of points (default: all) to the outline; negative inside."""
        dx, dy = col - np.float32(self.x), row - np.float32(self.y)
        sides = _SIDES[self.category]
        if not sides:
            return np.hypot(dx, dy) - np.float32(self.radius)
        apothem = self.radius * math.sqrt(math.pi / (sides * math.tan(math.pi / sides)))
        turns = [self.angle + 2 * math.pi * k / sides for k in range(sides)]
        edges = [dx * np.float32(math.cos(t)) + dy * np.float32(math.sin(t)) for t in turns]
        return np.maximum.reduce(edges) - np.float32(apothem)

    @property
    def area(self) -> float:
        return math.pi * self.radius**2


def draw_shapes(seed: int, index: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Draw one image. The result depends only on ``seed`` and ``index``.

    Returns:
        The image, uint8 (SIZE, SIZE, 3) RGB, and per object, back to front, its index into ``CLASSES`` and the mask of
        its visible part, bool (SIZE, SIZE). The masks do not overlap.
    """
    rng = np.random.default_rng([seed, index])
    background = rng.uniform(40, 215, 3)
    while True:
        shapes = _arrange(rng, background)
        shapes, distances, owner = _drop_occluded(shapes)
        if len(shapes) >= _MIN_OBJECTS and _same_class_touches(owner, [shape.category for shape in shapes]):
            break
    image = _paint(rng, background, shapes, distances)
    return image, [(shape.category, owner == i) for i, shape in enumerate(shapes)]


def _arrange(rng: np.random.Generator, background: np.ndarray) -> list[_Shape]:
    """Place objects, back to front. The second one always touches the first and has its class."""
    shapes: list[_Shape] = []
    for i in range(rng.integers(_MIN_OBJECTS, _MAX_OBJECTS + 1)):
        neighbor = shapes[rng.integers(len(shapes))] if i and (i == 1 or rng.random() < 0.65) else None
        category = int(rng.integers(len(CLASSES)))
        color = rng.uniform(20, 235, 3)
        while np.abs(color - background).max() < 60:  # the contrast to the background would be too low
            color = rng.uniform(20, 235, 3)
        if neighbor is not None:
            if i == 1 or rng.random() < 0.5:
                category = neighbor.category
            if rng.random() < 0.4:
                color = neighbor.color
        radius = math.exp(rng.uniform(*np.log(_DIAMETER))) / 2
        angle = 0.0 if rng.random() < 0.25 else rng.uniform(0, 2 * math.pi)
        x, y = rng.uniform(10, SIZE - 10, 2)
        shape = _Shape(category, x, y, radius, angle, color)
        shapes.append(shape if neighbor is None else _move_beside(rng, shape, neighbor))
    return shapes


def _move_beside(rng: np.random.Generator, shape: _Shape, neighbor: _Shape) -> _Shape:
    """Move ``shape`` until it touches or slightly overlaps ``neighbor``. Without enough room, return it unchanged."""
    in_neighbor = neighbor.distance() < 0
    points = _COL[in_neighbor], _ROW[in_neighbor]

    def moved(far: float, direction: float) -> _Shape:
        x, y = neighbor.x + far * math.cos(direction), neighbor.y + far * math.sin(direction)
        return _Shape(shape.category, x, y, shape.radius, shape.angle, shape.color)

    overlap = rng.uniform(0, 0.7) * min(shape.radius, neighbor.radius) if rng.random() < 0.6 else 0.7
    for direction in rng.uniform(0, 2 * math.pi, 6):
        near, far = 0.0, 1.6 * (shape.radius + neighbor.radius)
        for _ in range(7):  # bisection works because both are convex: they intersect up to one distance, not beyond
            middle = (near + far) / 2
            meets = bool((moved(middle, direction).distance(*points) < 0).any())
            near, far = (middle, far) if meets else (near, middle)
        result = moved(near - overlap, direction)
        if 8 < result.x < SIZE - 8 and 8 < result.y < SIZE - 8:
            return result
    return shape


def _drop_occluded(shapes: list[_Shape]) -> tuple[list[_Shape], list[np.ndarray], np.ndarray]:
    """Remove objects whose visible area is too small, the worst first.

    Returns:
        The remaining objects, their distance maps, and the object index per pixel, -1 for background.
    """
    distances = [shape.distance() for shape in shapes]
    while True:
        owner = np.full((SIZE, SIZE), -1, np.int8)
        for i, distance in enumerate(distances):
            owner[distance < 0] = i
        visible = np.bincount(owner[owner >= 0], minlength=len(shapes))
        required = np.array([_MIN_VISIBLE * shape.area for shape in shapes])
        worst = int(np.argmin(visible / required))
        if visible[worst] >= required[worst]:
            return shapes, distances, owner
        shapes, distances = shapes[:worst] + shapes[worst + 1 :], distances[:worst] + distances[worst + 1 :]


def _same_class_touches(owner: np.ndarray, categories: list[int]) -> bool:
    """Whether two objects of the same class have adjacent pixels."""
    category = np.array([*categories, -1])  # index -1 is the background
    for a, b in ((owner[:, 1:], owner[:, :-1]), (owner[1:], owner[:-1])):
        if ((a != b) & (a >= 0) & (category[a] == category[b])).any():
            return True
    return False


def _paint(
    rng: np.random.Generator, background: np.ndarray, shapes: list[_Shape], distances: list[np.ndarray]
) -> np.ndarray:
    """Render the image, uint8 (SIZE, SIZE, 3) RGB: textured background, shaded objects, antialiased outlines, noise."""
    image = background.astype(np.float32)[:, None, None] + _clouds(rng, 9, 3) * 26 + _clouds(rng, 33, 1) * 14
    wave, turn, phase = rng.uniform(0.15, 0.9), rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi)
    image += rng.uniform(0, 14) * np.sin(_ramp(wave, turn) + phase)
    for shape, distance in zip(shapes, distances):
        turn, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 16)
        slope = _ramp(strength / shape.radius, turn, shape.x, shape.y)
        alpha = np.clip(0.5 - distance, 0, 1)
        image += alpha * (shape.color.astype(np.float32)[:, None, None] + slope - image)
    image += 5 * rng.standard_normal(image.shape, np.float32)
    return np.ascontiguousarray(np.clip(np.rint(image), 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _ramp(slope: float, turn: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Return a plane, float32 (SIZE, SIZE): 0 at (x, y), rising by ``slope`` per pixel in direction ``turn`` (rad)."""
    slope_x, slope_y = np.float32(slope * math.cos(turn)), np.float32(slope * math.sin(turn))
    return (_COL - np.float32(x)) * slope_x + (_ROW - np.float32(y)) * slope_y


def _clouds(rng: np.random.Generator, knots: int, channels: int) -> np.ndarray:
    """Return smooth noise, float32 (channels, SIZE, SIZE): normal at knots x knots points, linear in between."""
    at = np.linspace(0, knots - 1, SIZE)
    weights = np.clip(1 - np.abs(at[:, None] - np.arange(knots)), 0, 1).astype(np.float32)  # (SIZE, knots)
    noise = rng.standard_normal((channels, knots, knots), np.float32)
    return weights @ noise @ weights.T


SHAPES = SyntheticDataset(
    name="shapes",
    version=1,
    classes=CLASSES,
    colors=((230, 85, 60), (60, 140, 230), (90, 190, 90)),
    splits={"train": (20181, 1000), "val": (20182, 100)},
    draw=draw_shapes,
)
