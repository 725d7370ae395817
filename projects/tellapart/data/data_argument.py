"""The data sets that a command line names: registered names, COCO files, and folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

from detectron2.data import DatasetCatalog

from ..errors import InputError, first_few
from .coco_folder import parse_register_flag, register_coco_folder
from .label_folder import LABEL_FOLDERS, LABEL_SUFFIXES, coco_file_of_labels, find_label_folder


def register_argument(text: str) -> str:
    """Register a data set that a command names, if it is not registered; return its name.

    Args:
        text: a registered name; "JSON:IMAGES", "LABELS:IMAGES" with a folder of label images, or one of them as
            "NAME=..."; a JSON file beside its images; or a folder, see :func:`find_label_folder`, or with one JSON file
            and the folder ``images``.

    Raises:
        InputError: there is no such file or name, or the folder has another layout.
    """
    if text in DatasetCatalog.list():
        return text
    name, equals, data = text.partition("=")
    if os.path.isdir(text) or not equals:
        name, data = "", text
    annotations, images = _split(data)
    if os.path.isdir(annotations):
        stem = Path(annotations).resolve().name if images is None else Path(images).resolve().name
        annotations, images = _of_folder(Path(annotations), images)
        stem = Path(annotations).stem if stem == "images" else stem
    elif os.path.isfile(annotations):
        stem = Path(annotations).stem
        if images is None:
            folder = os.path.dirname(annotations)
            images = os.path.join(folder, "images")
            images = images if os.path.isdir(images) else folder or "."
    else:
        known = "" if annotations.endswith(".json") else ", and no data set is registered under this name"
        raise InputError(
            f"there is no file {annotations}{known}; expected a name, JSON:IMAGES, NAME=JSON:IMAGES, or a folder of "
            "images with label images"
        )
    if not name:
        name, number = stem or "data", 2
        while name in DatasetCatalog.list():
            name, number = f"{stem}_{number}", number + 1
    register_coco_folder(name, annotations, images)
    return name


def _split(data: str) -> tuple[str, str | None]:
    """Return the path of the annotations and, if it is given, that of the images."""
    if os.path.exists(data) or ":" not in data:
        return os.path.expanduser(data), None
    return parse_register_flag(f"data={data}")[1:]


def _of_folder(folder: Path, images: str | None) -> tuple[str, str]:
    """Return the COCO file and the image folder of a folder of annotations."""
    if images is not None:
        return str(coco_file_of_labels(Path(images), folder)), images
    found = find_label_folder(folder)
    if found is not None:
        return str(coco_file_of_labels(*found)), str(found[0])
    files = [path for path in sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json")]) if _is_coco(path)]
    if len(files) == 1:
        image_root = folder / "images" if (folder / "images").is_dir() else folder
        return str(files[0]), str(image_root)
    if files:
        raise InputError(f"{folder} has {len(files)} COCO files: name one, such as {files[0]}:{folder / 'images'}")
    raise InputError(
        f"{folder} is no data set: expected images with label images beside them ({first_few(_endings(), 9)}), the "
        f"folders images and {' or '.join(LABEL_FOLDERS[:2])}, or a COCO file and the folder images"
    )


def _endings() -> list[str]:
    return [f"NAME{suffix}.tif" for suffix in LABEL_SUFFIXES]


def _is_coco(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "images" in content
