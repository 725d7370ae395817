"""Normalize the dataset dicts of a function that a user has registered in ``DatasetCatalog``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask

from ..errors import InputError, first_few
from .changes import Changes
from .coco_content import image_size
from .content import DatasetContent
from .normalize import Normalizer, check_units, integer_or_none
from .segmentations import segmentation_area


def read_registered(name: str, function: Callable[[], list[dict]], masks: bool | None) -> DatasetContent:
    """Call the function of a data set and normalize its dicts. Keys that Detectron2 does not define are kept.

    Numpy numbers and arrays become Python's; ``height``, ``width`` and ``image_id`` are filled in where they are
    missing; classes are numbered where the metadata has no ``thing_classes``.

    Args:
        name: the registered name.
        function: returns Detectron2's dataset dicts.
        masks: see :func:`tellapart.data.reader.read_dataset`.

    Raises:
        InputError: the function raises an error or returns something else, a file does not exist, or a category id is
            not in the range of ``thing_classes``.
    """
    where = f"Data set {name}"
    try:
        raw = function()
        raw = raw if isinstance(raw, (list, tuple, dict, str)) else list(raw)
    except InputError:
        raise
    except Exception as error:  # whatever a user's function raises
        raise InputError(f"{where}: its registered function raises {type(error).__name__}: {error}") from error
    if not isinstance(raw, (list, tuple)) or not all(isinstance(record, dict) for record in raw):
        raise InputError(f"{where}: its registered function returns a {type(raw).__name__}, expected a list of dicts")
    if not raw:
        raise InputError(f"{where}: its registered function returns no image")
    filled = Changes()
    records = _check_records(where, [dict(record) for record in raw], filled)
    has_annotations = any(record.get("annotations") is not None for record in records)
    objects = (
        [(record, one) for record in records for one in record.get("annotations") or ()] if has_annotations else []
    )
    has_masks = any(isinstance(one, dict) and _is_given(one.get("segmentation")) for _, one in objects)
    masks = has_masks if masks is None else masks
    classes, contiguous_ids = _classes(name, objects, filled)

    sizes = {i: (record["height"], record["width"]) for i, record in enumerate(records)}
    positions = {id(record): i for i, record in enumerate(records)}
    normalizer = Normalizer(where, sizes, dict(enumerate(classes)), masks, has_area=False, filled=filled)
    converted = [_to_coco(where, one, positions[id(record)], number) for number, (record, one) in enumerate(objects, 1)]
    kept: list[list[dict]] = [[] for _ in records]
    normalized = list(normalizer.normalize(converted))
    check_units(where, (one for one in normalized if one is not None), sizes)
    for (record, one), before, after in zip(objects, converted, normalized):
        if after is not None:
            kept[positions[id(record)]].append(_to_annotation(one, before, after, masks))
    if has_annotations:
        for record, annotations in zip(records, kept):
            record["annotations"] = annotations
    changes = Changes()
    for part in (filled, normalizer.bad):
        changes.update(part)
    content = DatasetContent(
        name, records, classes, [category for category, _ in sorted(contiguous_ids.items(), key=lambda pair: pair[1])],
        has_annotations, has_masks, changes=changes, bad=normalizer.bad,
    )  # fmt: skip
    content.coco = _to_coco_content(content)
    return content


def _is_given(segmentation: Any) -> bool:
    return isinstance(segmentation, (list, tuple, dict, np.ndarray)) and len(segmentation) > 0


def _check_records(where: str, records: list[dict], filled: Changes) -> list[dict]:
    """Return the records with sizes as int and unique ``image_id``; their files exist."""
    missing = []
    for number, record in enumerate(records, 1):
        path = record.get("file_name")
        if isinstance(path, (str, os.PathLike)):
            path = record["file_name"] = os.fspath(path)
            if "://" not in path and not os.path.isfile(path):
                missing.append(path)
                continue
        elif path is not None:
            raise InputError(f"{where}: 'file_name' of dict number {number} is {path!r}, expected the path of an image")
        sides = {side: integer_or_none(record.get(side)) for side in ("height", "width")}
        if None in sides.values():
            if path is None:
                raise InputError(f"{where}: dict number {number} has neither 'file_name' nor 'height' and 'width'")
            sides = image_size(where, path)
            filled.add("sizes of images that are missing read from the files", number)
        if min(sides.values()) < 1:
            raise InputError(f"{where}: image number {number} has the size {sides['width']} x {sides['height']}")
        record.update(sides)
    if missing:
        raise InputError(f"{where}: {len(missing)} of {len(records)} images do not exist: {first_few(missing)}")
    ids = [record.get("image_id") for record in records]
    ids = [one.item() if isinstance(one, np.generic) else one for one in ids]
    if any(not isinstance(one, (int, str)) for one in ids) or len(set(ids)) < len(ids) or len(set(map(type, ids))) > 1:
        for number in range(1, len(records) + 1):
            filled.add("images without a unique 'image_id' (all numbered from 1)", number)
        ids = list(range(1, len(records) + 1))
    for record, one in zip(records, ids):
        record["image_id"] = one
    return records


def _classes(name: str, objects: list[tuple[dict, dict]], filled: Changes) -> tuple[list[str], dict[int, int]]:
    """Return the class names, and the map from ids for evaluation to contiguous ids, and set both in the metadata."""
    metadata = MetadataCatalog.get(name)
    classes = metadata.get("thing_classes", None)
    if classes is None:
        numbers = [integer_or_none(one.get("category_id")) for _, one in objects if isinstance(one, dict)]
        classes = [str(i) for i in range(max((number for number in numbers if number is not None), default=0) + 1)]
        filled.add("data sets without 'thing_classes' in their metadata: classes are named by their numbers", name)
    contiguous_ids = metadata.get("thing_dataset_id_to_contiguous_id", None)
    if contiguous_ids is None:
        contiguous_ids = {i: i for i in range(len(classes))}
    return [str(one) for one in classes], dict(contiguous_ids)


def _to_coco(where: str, annotation: Any, image_index: int, number: int) -> Any:
    """Return an annotation in COCO's form, with Python's numbers; anything that is no dict is returned as it is."""
    if not isinstance(annotation, dict):
        return annotation
    one = {key: _plain(annotation[key]) for key in ("iscrowd", "category_id", "segmentation") if key in annotation}
    one.update(id=number, image_id=image_index, bbox=_plain(annotation.get("bbox")))
    if "bbox_mode" not in annotation and _is_given(one.get("segmentation")):
        one["bbox"] = None  # without a mode its meaning is unknown; the mask has a box
    if isinstance(one["bbox"], list) and len(one["bbox"]) == 4:
        try:
            mode = BoxMode(int(annotation["bbox_mode"]))
            one["bbox"] = [float(v) for v in BoxMode.convert(one["bbox"], mode, BoxMode.XYWH_ABS)]
        except (KeyError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
            found = annotation.get("bbox_mode", "missing")
            raise InputError(
                f"{where}: annotation number {number}: 'bbox_mode' is {found}, expected BoxMode.XYXY_ABS or XYWH_ABS"
            ) from error
    return one


def _plain(value: Any) -> Any:
    """Return numpy numbers and arrays as Python's; a mask (H, W) and everything else as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value if value.ndim == 2 and value.shape[1] > 2 else value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value


def _is_plain(segmentation: Any) -> bool:
    """Return whether it is a compressed RLE, or polygons as lists, which pycocotools needs."""
    if isinstance(segmentation, dict):
        return isinstance(segmentation["counts"], (str, bytes)) and type(segmentation["size"]) is list
    return isinstance(segmentation, list) and all(type(polygon) is list for polygon in segmentation)


def _to_annotation(original: dict, before: dict, after: dict, masks: bool) -> dict:
    """Return Detectron2's annotation: the original one with what has been changed."""
    annotation = dict(original)
    annotation["category_id"] = after["category_id"]
    annotation["iscrowd"] = after.get("iscrowd", 0)
    if after["bbox"] is not before["bbox"]:
        annotation.update(bbox=after["bbox"], bbox_mode=BoxMode.XYWH_ABS)
    elif not isinstance(original["bbox"], (list, tuple)):
        annotation["bbox"] = _plain(original["bbox"])
    if not masks:
        annotation.pop("segmentation", None)
    elif after["segmentation"] is not before["segmentation"] or not _is_plain(original["segmentation"]):
        segmentation = after["segmentation"]
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
            segmentation = coco_mask.frPyObjects(segmentation, *segmentation["size"])
        annotation["segmentation"] = segmentation
    return annotation


def _to_coco_content(content: DatasetContent) -> dict[str, Any]:
    """Return the records in COCO format, for evaluators."""
    ids = content.category_ids
    images = [
        {
            "id": record["image_id"],
            "height": record["height"],
            "width": record["width"],
            "file_name": record.get("file_name", ""),
        }
        for record in content.records
    ]
    coco: dict[str, Any] = {"images": images}
    coco["categories"] = [{"id": category, "name": name} for category, name in zip(ids, content.classes)]
    if content.has_annotations:
        annotations = coco["annotations"] = []
        for record in content.records:
            for one in record["annotations"]:
                box = [float(v) for v in BoxMode.convert(list(one["bbox"]), one["bbox_mode"], BoxMode.XYWH_ABS)]
                annotation = {"id": len(annotations) + 1, "image_id": record["image_id"], "bbox": box}
                annotation.update(category_id=ids[one["category_id"]], iscrowd=one["iscrowd"])
                annotation.update(_coco_mask(one.get("segmentation"), record, box))
                annotations.append(annotation)
    return coco


def _coco_mask(segmentation: list | dict | None, record: dict, box: list[float]) -> dict[str, Any]:
    """Return ``segmentation``, ready for JSON, and ``area`` of an annotation."""
    if segmentation is None:
        return {"area": box[2] * box[3]}
    area = segmentation_area(segmentation, record["height"], record["width"])
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], bytes):
        segmentation = {**segmentation, "counts": segmentation["counts"].decode("ascii")}
    elif isinstance(segmentation, list):
        segmentation = [np.asarray(polygon).tolist() for polygon in segmentation]
    return {"area": area, "segmentation": segmentation}
