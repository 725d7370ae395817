"""Images with COCO annotations that the parity cases read, drawn with integer arithmetic only.

The same seed yields the same bytes on every machine and with every version of numpy (its legacy random generator is
frozen), so neither images nor annotations have to be stored. An image holds textured discs, blocks, stars and bars in
three colors on a noisy background; sizes vary by a factor of ten, objects overlap and are cut off at the border. A
data set has polygons of one and of two parts, crowds as run-length encoding, twelve categories whose ids have gaps,
images of unequal odd sizes, an image without annotations and one with a crowd only.
"""

from __future__ import annotations

import atexit
import functools
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

# Polygons have integer coordinates in units of 1/64 pixel, which float32 and JSON hold exactly, and irregular outlines:
# vertices at simple fractions of a box fall exactly between two cells of a resized mask, where the last bit decides.
UNIT = 64
# cos(k * 22.5 degrees) * 1024, rounded; the sine is the same table four entries back.
_COSINE = (1024, 946, 724, 392, 0, -392, -724, -946, -1024, -946, -724, -392, 0, 392, 724, 946)
# Per kind: which of the 16 directions have a vertex, and the vertices' distances from the center, in 1/16 of the radii.
_KINDS = {
    "disc": (range(16), (16,)),
    "block": (range(2, 16, 4), (16,)),
    "star": (range(16), (16, 11, 6, 11)),
    "bar": ((1, 7, 9, 15), (16,)),
}
_COLORS = {"red": (40, 50, 210), "green": (60, 190, 80), "blue": (215, 120, 40)}  # BGR
_DIVISORS = (3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 25, 30)  # an object's radius is the image's short side divided by one
_IDS = (44, 1, 2, 3, 90, 5, 7, 8, 13, 21, 34, 70)  # neither sorted nor consecutive, as COCO allows
CATEGORIES = [
    {"id": category_id, "name": f"{color} {kind}", "supercategory": kind}
    for category_id, (kind, color) in zip(_IDS, ((k, c) for k in _KINDS for c in _COLORS))
]


class Drawing(NamedTuple):
    """One image of a data set."""

    image_id: int
    height: int
    width: int
    num_objects: int
    crowd: bool = False


CROWDED, UPRIGHT, EMPTY, FEW, TALL, SMALL = 60, 11, 34, 47, 5, 29  # ids of train images that cases choose
SPLITS = {
    "train": [
        Drawing(CROWDED, 239, 321, 16, crowd=True),
        Drawing(UPRIGHT, 320, 213, 1),
        Drawing(EMPTY, 241, 180, 0),
        Drawing(FEW, 200, 255, 7),
        Drawing(TALL, 499, 351, 3),
        Drawing(SMALL, 115, 177, 14),
        Drawing(52, 150, 151, 0, crowd=True),
    ],
    "val": [
        Drawing(108, 300, 401, 24),
        Drawing(102, 333, 250, 20, crowd=True),
        Drawing(103, 211, 317, 12),
        Drawing(110, 427, 283, 30),
        Drawing(105, 160, 160, 9),
    ],
}


def _polygon(
    rng: np.random.RandomState, center: list[int], radii: list[int], kind: str, size: tuple[int, int]
) -> np.ndarray:
    """Return a randomly rotated, irregular shape.

    Args:
        rng: the source of randomness.
        center: x, y in pixels.
        radii: in x and y, in pixels.
        kind: a key of ``_KINDS``.
        size: height and width of the image, in pixels; vertices are clamped to it.

    Returns:
        Vertices (N, 2) as x, y in units of 1/64 pixel.
    """
    directions, distances = _KINDS[kind]
    turn = rng.randint(16)
    vertices = []
    for i, k in enumerate(directions):
        distance, angle = UNIT * distances[i % len(distances)], (k + turn) % 16
        x = UNIT * center[0] + radii[0] * (distance + rng.randint(UNIT)) * _COSINE[angle] // (16 * 1024)
        y = UNIT * center[1] + radii[1] * (distance + rng.randint(UNIT)) * _COSINE[angle - 4] // (16 * 1024)
        vertices.append((min(max(x, 0), UNIT * size[1]), min(max(y, 0), UNIT * size[0])))
    return np.array(vertices, dtype=np.int64)


def rasterize(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the bool mask (height, width) of pixels whose centers are inside a polygon, by the even-odd rule."""
    mask = np.zeros((height, width), bool)
    left, top = (polygon.min(axis=0) // UNIT).tolist()
    right, bottom = (polygon.max(axis=0) // UNIT + 1).tolist()
    inside = mask[top:bottom, left:right]
    y, x = np.mgrid[top : top + inside.shape[0], left : left + inside.shape[1]] * UNIT + UNIT // 2
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0)):
        side = (x - x0) * (y1 - y0) - (y - y0) * (x1 - x0)
        inside ^= ((y0 <= y) != (y1 <= y)) & ((side < 0) == (y1 > y0))
    return mask


def _area(polygon: np.ndarray) -> float:
    """Return a polygon's area in pixels."""
    x, y = polygon.T
    return abs(int((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / (2 * UNIT**2)


def _run_lengths(mask: np.ndarray) -> dict:
    """Return a bool mask in COCO's uncompressed run-length encoding: by columns, the first run is background."""
    flat = np.concatenate([[False], mask.T.ravel(), [not mask[-1, -1]]])
    counts = np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()
    return {"size": list(mask.shape), "counts": counts}


def _crowd(category: int, mask: np.ndarray) -> dict:
    """Return the COCO annotation, without ids, of a crowd that covers a mask."""
    (top, left), (bottom, right) = (f(np.argwhere(mask), axis=0).tolist() for f in (np.min, np.max))
    return {
        "category_id": CATEGORIES[category]["id"],
        "iscrowd": 1,
        "bbox": [left, top, right - left + 1, bottom - top + 1],
        "area": int(mask.sum()),
        "segmentation": _run_lengths(mask),
    }


def _annotation(category: int, polygons: list[np.ndarray]) -> dict:
    """Return the COCO annotation, without ids, of an object that consists of these polygons."""
    points = np.concatenate(polygons) / UNIT
    low, high = points.min(axis=0), points.max(axis=0)
    return {
        "category_id": CATEGORIES[category]["id"],
        "iscrowd": 0,
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "area": sum(_area(p) for p in polygons),
        "segmentation": [(p / UNIT).reshape(-1).tolist() for p in polygons],
    }


def draw(seed: int, height: int, width: int, num_objects: int, crowd: bool = False) -> tuple[np.ndarray, list[dict]]:
    """Draw an image.

    Args:
        seed: the only source of randomness.
        height, width: in pixels.
        num_objects: number of objects with polygons; every fourth consists of two parts.
        crowd: whether a group of small discs is added, annotated as one crowd.

    Returns:
        The image, uint8 (height, width, 3), BGR, and its COCO annotations without ``id`` and ``image_id``.
    """
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[:height, :width]
    coarse = rng.randint(0, 50, (height // 16 + 1, width // 16 + 1, 3)).repeat(16, 0).repeat(16, 1)[:height, :width]
    image = 60 + coarse + ((3 * x + 2 * y) // 16 % 40)[:, :, None]
    annotations = []
    short_side = min(height, width)

    def place(category: int, radius: int) -> np.ndarray:
        """Return a polygon of a random place, aspect ratio and orientation."""
        center = [rng.randint(radius // 2, n - radius // 2) for n in (width, height)]
        radii = [max(radius * rng.randint(5, 9) // 8, 2) for _ in range(2)]
        return _polygon(rng, center, radii, CATEGORIES[category]["supercategory"], (height, width))

    def paint(polygon: np.ndarray, category: int) -> np.ndarray:
        """Fill a polygon with the stripes of its category; returns its mask."""
        mask = rasterize(polygon, height, width)
        stripes = (x + (category % 4) * y) // (3 + category % 5) % 2 * 35
        image[mask] = list(_COLORS.values())[category % 3] - stripes[mask][:, None]
        return mask

    for i in range(num_objects):
        category, radius = rng.randint(len(CATEGORIES)), short_side // rng.choice(_DIVISORS)
        polygons = [place(category, radius)]
        if i % 4 == 3:
            polygons.append(place(category, radius // 2))
        for polygon in polygons:
            paint(polygon, category)
        annotations.append(_annotation(category, polygons))
    if crowd:
        category = rng.randint(3)
        masks = [paint(place(category, short_side // 20), category) for _ in range(9)]
        annotations.append(_crowd(category, np.any(masks, axis=0)))
    image += rng.randint(-12, 13, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), annotations


def write(folder: Path) -> None:
    """Write all splits as COCO data sets: ``images/<split>/<id>.png`` and ``annotations/<split>.json``."""
    (folder / "annotations").mkdir()
    for split, drawings in SPLITS.items():
        (folder / "images" / split).mkdir(parents=True)
        content: dict = {"images": [], "annotations": [], "categories": CATEGORIES}
        for image_id, height, width, num_objects, crowd in drawings:
            image, annotations = draw(image_id, height, width, num_objects, crowd)
            name = f"{image_id:06}.png"
            Image.fromarray(image[:, :, ::-1]).save(folder / "images" / split / name)
            content["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
            for annotation in annotations:
                annotation_id = len(content["annotations"]) + 1
                content["annotations"].append({"id": annotation_id, "image_id": image_id, **annotation})
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))


@functools.cache
def coco_folder() -> Path:
    """Return a temporary folder with the data sets; it is written at the first call in a process."""
    folder = tempfile.TemporaryDirectory(prefix="parity_images_")
    atexit.register(folder.cleanup)
    write(Path(folder.name))
    return Path(folder.name)


def coco_json(split: str) -> dict:
    """Return the parsed annotations of a split."""
    return json.loads((coco_folder() / "annotations" / f"{split}.json").read_text())
