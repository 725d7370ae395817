"""Data sets of a COCO JSON file and a folder of images: checks before training, and registration in Detectron2."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tellapart.errors import InputError, did_you_mean, first_few

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from pycocotools import mask as coco_mask

# Results of the checks in this process by (name, paths, file size, modification time): category names, has masks.
_checked: dict[tuple, tuple[list[str], bool]] = {}
_has_masks: dict[str, bool] = {}


def coco_annotation(annotation_id: int, image_id: int, category_id: int, mask: np.ndarray) -> dict[str, Any]:
    """Return a COCO annotation with the compressed RLE of ``mask``, bool (H, W).

    Ids should start at 1, because pycocotools treats a match with annotation 0 as no match.
    """
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "iscrowd": 0,
        "bbox": coco_mask.toBbox(rle).tolist(),
        "area": int(coco_mask.area(rle)),
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
    }


def check_coco_dataset(name: str, json_file: str, image_root: str) -> list[str]:
    """Read a COCO JSON file and check it for everything that would fail, or give wrong results, later.

    An unchanged file is checked once per process. Image files must exist; they are not opened.

    Args:
        name: the data set's name, for messages only.
        json_file: path of the COCO JSON file.
        image_root: folder that the ``file_name`` of its images is relative to.

    Returns:
        The category names, sorted by category id, which is the order of the contiguous ids.

    Raises:
        InputError: names the file, the ids, and what is missing or broken.
    """
    where = f"Data set {name}"
    if not os.path.isdir(image_root):
        raise InputError(f"{where}: there is no image folder {image_root}")
    if not os.path.isfile(json_file):
        raise InputError(f"{where}: there is no annotation file {json_file}")
    stat = os.stat(json_file)
    key = (name, os.path.abspath(json_file), os.path.abspath(image_root), stat.st_size, stat.st_mtime_ns)
    if key not in _checked:
        where += f", {json_file}"
        content = _parse(where, json_file)
        images = _check_images(where, content["images"], image_root)
        names = _check_categories(where, content["categories"])
        _check_annotations(where, content["annotations"], images, set(names))
        masks = not content["annotations"] or any("segmentation" in a for a in content["annotations"])
        _checked[key] = [names[category] for category in sorted(names)], masks
    classes, _has_masks[name] = _checked[key]
    return list(classes)


def has_masks(name: str) -> bool:
    """Return False if :func:`check_dataset` found annotations in the data set, but none with a mask."""
    return _has_masks.get(name, True)


def _parse(where: str, json_file: str) -> dict[str, list[dict]]:
    try:
        with open(json_file, encoding="utf-8") as file:
            content = json.load(file)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{where} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{where}: the top level is a {type(content).__name__}, expected an object with 'images', ...")
    for field in ("images", "annotations", "categories"):
        if field not in content:
            raise InputError(f"{where} has no '{field}'; found {', '.join(map(repr, content)) or 'nothing'}")
        if not isinstance(content[field], list) or not all(isinstance(entry, dict) for entry in content[field]):
            raise InputError(f"{where}: '{field}' is not a list of objects")
    return content


def _check_images(where: str, images: list[dict], image_root: str) -> dict[int, dict]:
    """Check the images; return them by id."""
    _require_keys(where, "image", images, {"id": int, "file_name": str, "height": int, "width": int})
    if not images:
        raise InputError(f"{where}: 'images' is empty")
    _require_unique(where, "image id", (image["id"] for image in images))
    for image in images:
        if image["height"] < 1 or image["width"] < 1:
            raise InputError(f"{where}: image {image['id']} has the size {image['width']} x {image['height']}")
    listed: dict[str, set[str]] = {}  # listing each folder once is much faster than one lookup per image
    missing = []
    for image in images:
        folder, base = os.path.split(os.path.join(image_root, image["file_name"]))
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if base not in listed[folder]:
            missing.append(image["file_name"])
    if missing:
        raise InputError(
            f"{where}: {len(missing)} of {len(images)} images are not in {image_root}: {first_few(missing)}"
        )
    return {image["id"]: image for image in images}


def _check_categories(where: str, categories: list[dict]) -> dict[int, str]:
    """Check the categories; return their names by id."""
    _require_keys(where, "category", categories, {"id": int, "name": str})
    if not categories:
        raise InputError(f"{where}: 'categories' is empty")
    _require_unique(where, "category id", (category["id"] for category in categories))
    return {category["id"]: category["name"] for category in categories}


def _check_annotations(where: str, annotations: list[dict], images: dict[int, dict], categories: set[int]) -> None:
    _require_keys(where, "annotation", annotations, {"id": int, "image_id": int, "category_id": int, "bbox": list})
    _require_unique(where, "annotation id", (annotation["id"] for annotation in annotations))
    for kind, known in (("image", images), ("category", categories)):
        bad = [annotation for annotation in annotations if annotation[f"{kind}_id"] not in known]
        if bad:
            more = f" ({len(bad) - 1} more like it)" if len(bad) > 1 else ""
            found = bad[0][f"{kind}_id"]
            raise InputError(f"{where}: annotation {bad[0]['id']} names {kind} {found}, which is not in the file{more}")
    with_mask = 0
    for annotation in annotations:
        problem = _box_problem(annotation["bbox"])
        if not problem and "segmentation" in annotation:
            with_mask += 1
            problem = _mask_problem(annotation["segmentation"], images[annotation["image_id"]])
        if problem:
            raise InputError(f"{where}: annotation {annotation['id']} (image {annotation['image_id']}): {problem}")
    if 0 < with_mask < len(annotations):
        without_mask = next(annotation["id"] for annotation in annotations if "segmentation" not in annotation)
        raise InputError(f"{where}: annotation {without_mask} has no 'segmentation', but {with_mask} others have one")
    if any(annotation["id"] == 0 for annotation in annotations):
        logging.getLogger(__name__).warning(
            "%s: COCO's evaluation counts a match with annotation 0 as a miss; number annotations from 1", where
        )


def _box_problem(box: list) -> str:
    try:
        if len(box) == 4 and math.isfinite(sum(box)) and box[2] >= 0 and box[3] >= 0:
            return ""
    except TypeError:
        pass
    return f"'bbox' is {box}, expected [x, y, width, height]"


def _mask_problem(segmentation: Any, image: dict) -> str:
    """Return what is wrong with a list of polygons or an RLE, or "".

    Polygons of one or two points are accepted, because Detectron2 drops them.
    """
    if isinstance(segmentation, dict):
        height, width = image["height"], image["width"]
        if segmentation.get("size") != [height, width]:
            return f"the RLE's 'size' is {segmentation.get('size')}, its image's is {[height, width]}"
        counts = segmentation.get("counts")
        if isinstance(counts, str) and counts:
            return ""
        try:
            if isinstance(counts, list) and sum(counts) == height * width and min(counts) >= 0:
                return ""
        except TypeError:
            pass
        return f"the RLE's 'counts' are neither a string nor numbers that add up to {height} x {width}"
    if not isinstance(segmentation, list) or not segmentation:
        return f"'segmentation' is {str(segmentation)[:60]}, expected a list of polygons or an RLE object"
    for polygon in segmentation:
        try:
            fine = isinstance(polygon, list) and len(polygon) % 2 == 0 and math.isfinite(sum(polygon))
        except TypeError:
            fine = False
        if not fine:
            return f"the polygon {str(polygon)[:60]} is not a list of numbers [x1, y1, x2, y2, ...]"
    return ""


def _require_keys(where: str, kind: str, entries: list[dict], expected: dict[str, type]) -> None:
    for i, entry in enumerate(entries):
        for key, of_type in expected.items():
            value = entry.get(key)
            if not isinstance(value, of_type):
                which = f"{kind} {entry['id']}" if "id" in entry and key != "id" else f"{kind} number {i + 1}"
                found = f"is {str(value)[:60]!r}" if key in entry else "is missing"
                raise InputError(f"{where}: {which}: '{key}' {found}, expected {of_type.__name__}")


def _require_unique(where: str, what: str, ids: Iterable[int]) -> None:
    duplicates = [one for one, count in Counter(ids).items() if count > 1]
    if duplicates:
        raise InputError(f"{where}: {what} used more than once: {first_few(map(str, duplicates))}")


def register_coco_folder(name: str, json_file: str, image_root: str) -> None:
    """Register a data set in COCO format in Detectron2's catalogs.

    Its files are read and checked at the first ``DatasetCatalog.get(name)`` or ``check_dataset(name)``.

    Raises:
        InputError: the name is already registered.
    """
    if name in DatasetCatalog.list():
        raise InputError(f"A data set {name} is registered already; choose another name")

    def load() -> list[dict]:
        check_coco_dataset(name, json_file, image_root)
        return load_coco_json(json_file, image_root, name)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(json_file=str(json_file), image_root=str(image_root), evaluator_type="coco")


def parse_register_flag(text: str) -> tuple[str, str, str]:
    """Split the value of ``--register``, "NAME=JSON:IMAGES", into (name, JSON path, image folder); expand ``~``.

    Raises:
        InputError: the text has another form.
    """
    name, equals, paths = text.partition("=")
    json_file, colon, image_root = paths.rpartition(":")
    if not (name and equals and json_file and colon and image_root):
        raise InputError(f"--register {text}: expected NAME=JSON:IMAGES, for example mine=data/train.json:data/images")
    return name, os.path.expanduser(json_file), os.path.expanduser(image_root)


def check_dataset(name: str) -> list[str]:
    """Prepare and check a registered data set before a loader or an evaluator is built.

    Synthetic data sets are drawn. Data sets in COCO format, including Detectron2's, are checked.

    Returns:
        The category names in the order of their contiguous ids; empty for a data set that is not in COCO format.

    Raises:
        InputError: there is no data set of this name (similar names are listed), or :func:`check_coco_dataset` fails.
    """
    known = DatasetCatalog.list()
    if name not in known:
        hint = did_you_mean(name, known, 3, cutoff=0.5) or "; --register NAME=JSON:IMAGES adds your own"
        raise InputError(f"There is no data set {name}{hint}")
    metadata = MetadataCatalog.get(name)
    ensure = metadata.get("tellapart_ensure", None)
    if ensure is not None:
        ensure()
    json_file, image_root = metadata.get("json_file", None), metadata.get("image_root", None)
    if json_file is None or image_root is None or metadata.get("evaluator_type", None) != "coco":
        return list(metadata.get("thing_classes", []))
    return check_coco_dataset(name, json_file, image_root)
