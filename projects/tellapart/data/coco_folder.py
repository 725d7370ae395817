"""Register data sets of a COCO JSON file and a folder of images, and write annotations in COCO format."""

from __future__ import annotations

import os
import re
from typing import Any

from tellapart.errors import InputError

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as coco_mask

from .reader import CocoFolder


def coco_annotation(annotation_id: int, image_id: int, category_id: int, mask: np.ndarray) -> dict[str, Any]:
    """Return a COCO annotation with the compressed RLE of ``mask``, bool (H, W).

    Ids should start at 1, because pycocotools treats a match with annotation 0 as no match.
    """
    return rle_annotation(
        annotation_id, image_id, category_id, coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    )


def rle_annotation(annotation_id: int, image_id: int, category_id: int, rle: dict) -> dict[str, Any]:
    """Return a COCO annotation with a compressed RLE of pycocotools; see :func:`coco_annotation`."""
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "iscrowd": 0,
        "bbox": coco_mask.toBbox(rle).tolist(),
        "area": int(coco_mask.area(rle)),
        "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
    }


def register_coco_folder(name: str, json_file: str, image_root: str) -> None:
    """Register a data set in COCO format in Detectron2's catalogs.

    Its files are read and checked at the first ``read_dataset(name)`` or ``DatasetCatalog.get(name)``.

    Raises:
        InputError: the name is already registered.
    """
    if name in DatasetCatalog.list():
        raise InputError(f"A data set {name} is registered already; choose another name")
    DatasetCatalog.register(name, CocoFolder(name, str(json_file), str(image_root)))
    MetadataCatalog.get(name).set(json_file=str(json_file), image_root=str(image_root), evaluator_type="coco")


def registered_files(name: str) -> tuple[str, str] | None:
    """Return the absolute paths of a registered data set's COCO file and image folder; None if it has none."""
    metadata = MetadataCatalog.get(name)
    json_file, image_root = metadata.get("json_file", None), metadata.get("image_root", None)
    if not json_file or image_root is None:
        return None
    return os.path.abspath(json_file), os.path.abspath(image_root)


def parse_register_flag(text: str) -> tuple[str, str, str]:
    """Split the value of ``--register``, "NAME=JSON:IMAGES", into (name, JSON path, image folder); expand ``~``.

    Raises:
        InputError: the text has another form.
    """
    name, equals, paths = text.partition("=")
    json_file, colon, image_root = paths.rpartition(":")
    drive = re.search(r"(?:^|:)([A-Za-z])$", json_file)
    if drive and image_root[:1] in ("\\", "/") and json_file != drive[1]:  # "a.json:D" and "\\images": a Windows drive
        json_file, image_root = json_file[:-2], f"{drive[1]}:{image_root}"
    if not (name and equals and json_file and colon and image_root):
        raise InputError(f"--register {text}: expected NAME=JSON:IMAGES, for example mine=data/train.json:data/images")
    return name, os.path.expanduser(json_file), os.path.expanduser(image_root)
