"""Read a COCO JSON file and its folder of images as normalized dataset dicts."""

from __future__ import annotations

import os
from typing import Any

from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask

from ..errors import InputError
from .changes import Changes
from .coco_json import number_annotations, parse_coco_json, read_categories, read_images
from .content import DatasetContent, set_classes
from .file_names import resolve_file_names
from .image_reading import ImageReader
from .normalize import Normalizer, check_units


def read_coco(name: str, json_file: str, image_root: str | None, masks: bool | None) -> DatasetContent:
    """Read and normalize a data set in COCO format.

    Args:
        name: the registered name; its metadata gets the classes.
        json_file: path of the COCO JSON file.
        image_root: folder that the ``file_name`` of its images is relative to. None: the images are not looked for,
            and there are no records, only the content in COCO format.
        masks: see :func:`tellapart.data.reader.read_dataset`.

    Raises:
        InputError: see :func:`tellapart.data.reader.read_dataset`.
    """
    where = f"Data set {name}"
    if image_root is not None and not os.path.isdir(image_root):
        raise InputError(f"{where}: there is no image folder {image_root}")
    if not os.path.isfile(json_file):
        raise InputError(f"{where}: there is no annotation file {json_file}")
    where += f", {json_file}"
    coco, is_plain = parse_coco_json(where, json_file)
    filled, changes = Changes(), Changes()
    categories = read_categories(where, coco["categories"], filled)
    images = read_images(where, coco["images"], filled)
    paths: list[str] = []
    if image_root is not None:
        try:
            paths, changes = resolve_file_names(image_root, [image["file_name"] for image in images])
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    images = _fill_sizes(where, images, paths, filled)
    set_classes(name, categories)

    raw = coco.pop("annotations", None)
    has_masks = any(isinstance(one, dict) and one.get("segmentation") for one in raw or ())
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    masks = has_masks if masks is None else masks
    normalizer = Normalizer(where, sizes, categories, masks, filled=filled)
    kept = [annotation for annotation in normalizer.normalize(raw or []) if annotation is not None]
    check_units(where, kept, sizes)
    kept = number_annotations(kept, filled)
    if 2 * normalizer.num_like_xyxy > len(kept):
        normalizer.bad.add("files whose boxes look like [x1, y1, x2, y2], expected [x, y, width, height]", json_file)
    for part in (filled, normalizer.bad):
        changes.update(part)
    normalized = None
    if not is_plain or filled or normalizer.bad:
        listed = [{"id": category, "name": name} for category, name in categories.items()]
        normalized = {"images": images, "categories": listed}
        if raw is not None:
            normalized["annotations"] = kept
    records = _to_records(images, paths, None if raw is None else kept, {c: i for i, c in enumerate(categories)}, masks)
    return DatasetContent(
        name, records, list(categories.values()), list(categories), raw is not None, has_masks,
        changes=changes, bad=normalizer.bad, json_file=json_file, coco=normalized,
    )  # fmt: skip


def _fill_sizes(where: str, images: list[dict], paths: list[str], filled: Changes) -> list[dict]:
    """Return the images with ``height`` and ``width``, read from the files where they are missing."""
    complete = []
    for i, image in enumerate(images):
        if image.get("height") is None or image.get("width") is None:
            if not paths:
                raise InputError(f"{where}: image {image['id']} has no 'height' or no 'width'")
            image = {**image, **image_size(where, paths[i])}
            filled.add("sizes of images that are missing read from the files", image["id"])
        complete.append(image)
    return complete


def image_size(where: str, path: str) -> dict[str, int]:
    """Return ``height`` and ``width`` of an image file in pixels, as it is read for training.

    Raises:
        InputError: the file is not an image.
    """
    try:
        info = ImageReader().describe(path)
    except OSError as error:
        raise InputError(f"{where}: image {path} cannot be read: {error}") from error
    return {"height": info.height, "width": info.width}


def _to_records(
    images: list[dict], paths: list[str], annotations: list[dict] | None, contiguous_ids: dict[int, int], masks: bool
) -> list[dict]:
    """Return Detectron2's dataset dicts, in the order of the image ids, equal to those of ``load_coco_json``."""
    if not paths:
        return []
    objects: dict[Any, list[dict]] = {image["id"]: [] for image in images}
    for annotation in annotations or ():
        one = {"iscrowd": annotation["iscrowd"], "bbox": annotation["bbox"]}
        if masks:
            segmentation = annotation["segmentation"]
            if type(segmentation) is dict and type(segmentation["counts"]) is list:
                segmentation = coco_mask.frPyObjects(segmentation, *segmentation["size"])
            one["segmentation"] = segmentation
        one["bbox_mode"] = BoxMode.XYWH_ABS
        one["category_id"] = contiguous_ids[annotation["category_id"]]
        objects[annotation["image_id"]].append(one)
    records = []
    for image, path in sorted(zip(images, paths), key=lambda pair: pair[0]["id"]):
        record = {"file_name": path, "height": image["height"], "width": image["width"], "image_id": image["id"]}
        if annotations is not None:
            record["annotations"] = objects[image["id"]]
        records.append(record)
    return records
