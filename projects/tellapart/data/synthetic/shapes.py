"""
`shapes_train` / `shapes_val`: discs, squares and triangles that touch and occlude each other on a textured ground.

Made for telling instances apart, nothing else: every image has instances of one category that touch, an object's area
and colour say nothing about its category, and touching objects often share one colour, so that only shape separates
them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .dataset import SyntheticDataset

CLASSES = ("disc", "square", "triangle")
SIZE = 128  # image height and width, pixels

_SIDES = (0, 4, 3)  # of each class; 0: round
_DIAMETER = (16.0, 44.0)  # of the disc whose area the object has, pixels: a triangle of 44 has sides of 59
_MIN_OBJECTS = 4
_MAX_OBJECTS = 9
_MIN_VISIBLE = 0.2  # of the object's whole area, what lies outside of the image too: never below 40 pixels
_ROW, _COL = np.mgrid[:SIZE, :SIZE].astype(np.float32) + 0.5  # pixel centres


@dataclass(frozen=True)
class _Shape:
    """An object before it is drawn: class index, centre (x, y) and radius of the disc of equal area, angle, RGB."""

    category: int
    x: float
    y: float
    radius: float
    angle: float
    color: np.ndarray

    def distance(self, col: np.ndarray = _COL, row: np.ndarray = _ROW) -> np.ndarray:
        """float32, the arguments' shape: pixels from the points (default: all) to the outline, negative inside."""
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
    """
    Image `index` of the endless series that `seed` stands for; it depends on nothing else.

    Returns:
        the image, uint8 (SIZE, SIZE, 3) RGB, and for each object its class index into `CLASSES` and its visible part,
        bool (SIZE, SIZE), back to front. The visible parts don't overlap.
    """
    rng = np.random.default_rng([seed, index])
    ground = rng.uniform(40, 215, 3)
    while True:
        shapes = _arrange(rng, ground)
        shapes, distances, owner = _drop_hidden(shapes)
        if len(shapes) >= _MIN_OBJECTS and _twins_touch(owner, [shape.category for shape in shapes]):
            break
    image = _paint(rng, ground, shapes, distances)
    return image, [(shape.category, owner == i) for i, shape in enumerate(shapes)]


def _arrange(rng: np.random.Generator, ground: np.ndarray) -> list[_Shape]:
    """A heap of objects, back to front; the second always leans on the first and is of its class."""
    shapes: list[_Shape] = []
    for i in range(rng.integers(_MIN_OBJECTS, _MAX_OBJECTS + 1)):
        neighbour = shapes[rng.integers(len(shapes))] if i and (i == 1 or rng.random() < 0.65) else None
        category = int(rng.integers(len(CLASSES)))
        color = rng.uniform(20, 235, 3)
        while np.abs(color - ground).max() < 60:  # else it would melt into the ground
            color = rng.uniform(20, 235, 3)
        if neighbour is not None:
            if i == 1 or rng.random() < 0.5:
                category = neighbour.category
            if rng.random() < 0.4:
                color = neighbour.color
        radius = math.exp(rng.uniform(*np.log(_DIAMETER))) / 2
        angle = 0.0 if rng.random() < 0.25 else rng.uniform(0, 2 * math.pi)
        x, y = rng.uniform(10, SIZE - 10, 2)
        shape = _Shape(category, x, y, radius, angle, color)
        shapes.append(shape if neighbour is None else _lean(rng, shape, neighbour))
    return shapes


def _lean(rng: np.random.Generator, shape: _Shape, neighbour: _Shape) -> _Shape:
    """`shape` moved beside `neighbour` so that they just touch or overlap a little; as it was if there is no room."""
    inside = neighbour.distance() < 0
    points = _COL[inside], _ROW[inside]

    def moved(far: float, direction: float) -> _Shape:
        x, y = neighbour.x + far * math.cos(direction), neighbour.y + far * math.sin(direction)
        return _Shape(shape.category, x, y, shape.radius, shape.angle, shape.color)

    overlap = rng.uniform(0, 0.7) * min(shape.radius, neighbour.radius) if rng.random() < 0.6 else 0.7
    for direction in rng.uniform(0, 2 * math.pi, 6):
        near, far = 0.0, 1.6 * (shape.radius + neighbour.radius)
        for _ in range(7):  # both are convex: they meet up to one distance and never beyond it
            middle = (near + far) / 2
            meets = bool((moved(middle, direction).distance(*points) < 0).any())
            near, far = (middle, far) if meets else (near, middle)
        result = moved(near - overlap, direction)
        if 8 < result.x < SIZE - 8 and 8 < result.y < SIZE - 8:
            return result
    return shape


def _drop_hidden(shapes: list[_Shape]) -> tuple[list[_Shape], list[np.ndarray], np.ndarray]:
    """Takes away what is hardly seen, the worst first; what is left, its distances, each pixel's owner (-1: ground)."""
    distances = [shape.distance() for shape in shapes]
    while True:
        owner = np.full((SIZE, SIZE), -1, np.int8)
        for i, distance in enumerate(distances):
            owner[distance < 0] = i
        seen = np.bincount(owner[owner >= 0], minlength=len(shapes))
        wanted = np.array([_MIN_VISIBLE * shape.area for shape in shapes])
        worst = int(np.argmin(seen / wanted))
        if seen[worst] >= wanted[worst]:
            return shapes, distances, owner
        shapes, distances = shapes[:worst] + shapes[worst + 1 :], distances[:worst] + distances[worst + 1 :]


def _twins_touch(owner: np.ndarray, categories: list[int]) -> bool:
    """Whether two objects of one class have pixels side by side."""
    category = np.array([*categories, -1])  # the last one, at index -1, is the ground's
    for a, b in ((owner[:, 1:], owner[:, :-1]), (owner[1:], owner[:-1])):
        if ((a != b) & (a >= 0) & (category[a] == category[b])).any():
            return True
    return False


def _paint(
    rng: np.random.Generator, ground: np.ndarray, shapes: list[_Shape], distances: list[np.ndarray]
) -> np.ndarray:
    """uint8 (SIZE, SIZE, 3) RGB: cloudy, striped ground, lightly shaded objects, smooth outlines, grain over all."""
    image = ground.astype(np.float32)[:, None, None] + _clouds(rng, 9, 3) * 26 + _clouds(rng, 33, 1) * 14
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
    """(SIZE, SIZE) float32: a plane that is 0 at (x, y) and rises by `slope` per pixel in direction `turn`."""
    slope_x, slope_y = np.float32(slope * math.cos(turn)), np.float32(slope * math.sin(turn))
    return (_COL - np.float32(x)) * slope_x + (_ROW - np.float32(y)) * slope_y


def _clouds(rng: np.random.Generator, knots: int, channels: int) -> np.ndarray:
    """(channels, SIZE, SIZE) float32: normal noise on knots x knots points, linear in between."""
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
