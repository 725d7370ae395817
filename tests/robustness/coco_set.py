"""A small valid data set in COCO format, and functions that give it one property that people's files have."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 64, 96
NUM_IMAGES, NUM_OBJECTS = 4, 12
# (image id, category id, center x, center y, radius) in pixels. No two disks of an image overlap.
DISKS = [
    *[(1, 1, 20.0, 20.0, 12.0), (1, 1, 70.0, 18.0, 13.0), (1, 1, 46.0, 47.0, 12.0)],
    *[(2, 2, 76.0, 16.0, 10.0), (2, 1, 22.0, 44.0, 13.0), (2, 2, 44.0, 14.0, 9.5)],
    *[(3, 1, 20.0, 22.0, 9.0), (3, 2, 82.0, 48.0, 10.0), (3, 2, 50.0, 34.0, 12.0)],
    *[(4, 1, 72.0, 24.0, 9.0), (4, 1, 38.0, 48.0, 10.0), (4, 2, 20.0, 20.0, 11.0)],
]
COLORS = {1: (230, 90, 60), 2: (60, 90, 230)}
Content = dict[str, Any]
Edit = Callable[[Content], None]


def disk_polygon(x: float, y: float, radius: float) -> list[float]:
    """Return [x1, y1, x2, y2, ...] of a polygon with 12 vertices."""
    angles = [2 * math.pi * i / 12 for i in range(12)]
    return [round(v, 2) for a in angles for v in (x + radius * math.cos(a), y + radius * math.sin(a))]


def disk_annotation(annotation_id: int, image_id: int, category_id: int, x: float, y: float, radius: float) -> dict:
    """Return a complete COCO annotation with a polygon."""
    polygon = disk_polygon(x, y, radius)
    (rle,) = coco_mask.frPyObjects([polygon], HEIGHT, WIDTH)
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "iscrowd": 0,
        "bbox": [x - radius, y - radius, 2 * radius, 2 * radius],
        "area": float(coco_mask.area(rle)),
        "segmentation": [polygon],
    }


def base_content() -> Content:
    """Return 4 images of 96 x 64 pixels, 12 objects with polygons and 2 categories."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(1, 5)],
        "annotations": [disk_annotation(i, *disk) for i, disk in enumerate(DISKS, start=1)],
        "categories": [{"id": 1, "name": "c1"}, {"id": 2, "name": "c2"}],
    }


def pixels(image_id: int) -> np.ndarray:
    """Draw an image of the set: uint8 (64, 96, 3), noise with disks of the categories' colors."""
    generator = np.random.default_rng(image_id)
    picture = generator.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    yy, xx = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for number, category, x, y, radius in DISKS:
        if number == image_id:
            picture[(xx - x) ** 2 + (yy - y) ** 2 < radius**2] = COLORS[category]
    return picture


def write_images(folder: Path) -> None:
    """Write ``folder/images/1.png`` to ``4.png``."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i in range(1, NUM_IMAGES + 1):
        Image.fromarray(pixels(i)).save(folder / "images" / f"{i}.png")


def write_json(folder: Path, content: Any, name: str = "a.json") -> None:
    """Write ``content`` as ``folder/a.json``; NaN and infinity are written as Python's json module does."""
    (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_set(folder: Path, *edits: Edit, name: str = "a.json") -> Content:
    """Write images and JSON of the base set after ``edits``; return the content."""
    content = base_content()
    for edit in edits:
        edit(content)
    write_images(folder)
    write_json(folder, content, name)
    return content


# --- edits of annotations ---------------------------------------------------------------------------------------------


def put(key: str, value: Any, which: slice | int = slice(None)) -> Edit:
    """Set ``key`` of the annotations ``which``. A function is called with the annotation; ``...`` removes the key."""

    def edit(content: Content) -> None:
        chosen = content["annotations"][which]
        for annotation in chosen if isinstance(chosen, list) else [chosen]:
            if value is ...:
                annotation.pop(key, None)
            else:
                annotation[key] = value(annotation) if callable(value) else copy.deepcopy(value)

    return edit


def put_image(key: str, value: Any, which: slice | int = slice(None)) -> Edit:
    """As :func:`put`, for the images."""

    def edit(content: Content) -> None:
        chosen = content["images"][which]
        for image in chosen if isinstance(chosen, list) else [chosen]:
            if value is ...:
                image.pop(key, None)
            else:
                image[key] = value(image) if callable(value) else copy.deepcopy(value)

    return edit


HALF = slice(0, None, 2)  # every second annotation, six of twelve
ONE = 3  # the fourth annotation: id 4, image 2, category 2


def rle(annotation: dict, height: int = HEIGHT, width: int = WIDTH) -> dict:
    """Return the compressed RLE of an annotation's polygons, with counts as str."""
    encoded = coco_mask.merge(coco_mask.frPyObjects(annotation["segmentation"], height, width))
    return {"size": [height, width], "counts": encoded["counts"].decode()}


def rle_counts(annotation: dict) -> list[int]:
    """Return the uncompressed counts of an annotation's polygons."""
    flat = coco_mask.decode(rle(annotation)).flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, len(flat)]).tolist()
    return [0, *counts] if flat[0] else counts


def rle_list(annotation: dict) -> dict:
    """Return the uncompressed RLE of an annotation's polygons."""
    return {"size": [HEIGHT, WIDTH], "counts": rle_counts(annotation)}


def map_ids(kind: str, convert: Callable[[int], Any]) -> Edit:
    """Convert the ids of the images or categories (``kind``), and the annotations' references to them."""

    def edit(content: Content) -> None:
        key = {"image": "images", "category": "categories"}[kind]
        for entry in content[key]:
            entry["id"] = convert(entry["id"])
        for annotation in content["annotations"]:
            annotation[f"{kind}_id"] = convert(annotation[f"{kind}_id"])

    return edit
