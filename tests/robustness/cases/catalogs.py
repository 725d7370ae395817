"""Data sets that are registered in Python: dicts of a function in Detectron2's ``DatasetCatalog``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask

from ..case import Case, Inputs, refused, trains
from ..coco_set import HALF, HEIGHT, WIDTH, base_content, put, rle, rle_list, write_set
from ..run import ALL_MODELS

NO_SETS = Inputs(())
Records = list[dict[str, Any]]


def records(folder: Path) -> Records:
    """Return the base set as Detectron2's dataset dicts."""
    content = base_content()
    result = []
    for image in content["images"]:
        annotations = [
            {
                "bbox": one["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": one["category_id"] - 1,
                "segmentation": one["segmentation"],
            }
            for one in content["annotations"]
            if one["image_id"] == image["id"]
        ]
        path = str(folder / "images" / image["file_name"])
        sizes = {"height": HEIGHT, "width": WIDTH, "image_id": image["id"]}
        result.append({"file_name": path, **sizes, "annotations": annotations})
    return result


def registered(change: Callable[[Records], Any] = lambda _: None, **metadata: Any) -> Callable[[Path], Inputs]:
    """Register a function that returns the base set after ``change``, or what ``change`` returns."""

    def build(folder: Path) -> Inputs:
        write_set(folder)

        def load() -> Any:
            dicts = copy.deepcopy(records(folder))
            result = change(dicts)
            return dicts if result is None else result

        DatasetCatalog.register("mine", load)
        MetadataCatalog.get("mine").set(**{"thing_classes": ["c1", "c2"], **metadata})
        return NO_SETS

    return build


def without_metadata(folder: Path) -> Inputs:
    write_set(folder)
    DatasetCatalog.register("mine", lambda: records(folder))
    return NO_SETS


def objects(change: Callable[[dict], None], which: slice = slice(None)) -> Callable[[Path], Inputs]:
    def change_all(dicts: Records) -> None:
        for one in [a for record in dicts for a in record["annotations"]][which]:
            change(one)

    return registered(change_all)


def key(name: str, value: Any, which: slice = slice(None)) -> Callable[[Path], Inputs]:
    """Set a key of annotations; a function is called with the annotation, ``...`` removes the key."""

    def change(annotation: dict) -> None:
        if value is ...:
            annotation.pop(name, None)
        else:
            annotation[name] = value(annotation) if callable(value) else value

    return objects(change, which)


def image_key(name: str, value: Any) -> Callable[[Path], Inputs]:
    def change(dicts: Records) -> None:
        for record in dicts:
            if value is ...:
                del record[name]
            else:
                record[name] = value(record) if callable(value) else value

    return registered(change)


def raises(_: Records) -> None:
    raise FileNotFoundError("annotations.csv")


def coco_instances(*edits) -> Callable[[Path], Inputs]:
    """Register by Detectron2's own function."""

    def build(folder: Path) -> Inputs:
        write_set(folder, *edits)
        register_coco_instances("mine", {}, str(folder / "a.json"), str(folder / "images"))
        return NO_SETS

    return build


def mask_array(annotation: dict) -> np.ndarray:
    return coco_mask.decode(rle(annotation))


def xyxy(annotation: dict) -> list[float]:
    return BoxMode.convert(annotation["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)


def to_xyxy(annotation: dict) -> None:
    annotation.update(bbox=xyxy(annotation), bbox_mode=BoxMode.XYXY_ABS)


CASES = [
    Case("catalog", registered(), trains(12), models=ALL_MODELS),
    Case("catalog_without_metadata", without_metadata, trains(12)),
    Case("catalog_id_map", registered(thing_dataset_id_to_contiguous_id={1: 0, 2: 1}), trains(12)),
    Case("catalog_evaluator_type", registered(evaluator_type="coco"), trains(12)),
    Case("catalog_category_numpy", key("category_id", lambda a: np.int64(a["category_id"])), trains(12),
         models=ALL_MODELS),
    Case("catalog_category_from_1", key("category_id", lambda a: a["category_id"] + 1), refused("category", "2")),
    Case("catalog_category_text", key("category_id", lambda a: str(a["category_id"])), trains(12)),
    Case("catalog_image_id_missing", image_key("image_id", ...), trains(12, "image_id")),
    Case("catalog_image_id_numpy", image_key("image_id", lambda r: np.int64(r["image_id"])), trains(12)),
    Case("catalog_image_id_text", image_key("image_id", lambda r: r["file_name"]), trains(12)),
    Case("catalog_image_id_equal", image_key("image_id", 1), trains(12, "image_id")),
    Case("catalog_size_missing", registered(lambda d: [{k: v for k, v in r.items() if k not in ("height", "width")}
         for r in d]), trains(12)),
    Case("catalog_size_numpy", image_key("height", np.int32(HEIGHT)), trains(12)),
    Case("catalog_size_wrong", image_key("height", 100), refused("100")),
    Case("catalog_file_missing", image_key("file_name", "nowhere.png"), refused("nowhere")),
    Case("catalog_file_path", image_key("file_name", lambda r: Path(r["file_name"])), trains(12)),
    Case("catalog_file_name_missing", image_key("file_name", ...), refused("file_name")),
    Case("catalog_no_annotations", image_key("annotations", ...), refused("annotations")),
    Case("catalog_annotations_empty", image_key("annotations", []), refused("annotation|object")),
    Case("catalog_iscrowd_null", key("iscrowd", None), trains(12)),
    Case("catalog_iscrowd_all", key("iscrowd", 1), refused("crowd")),
    Case("catalog_box_array", key("bbox", lambda a: np.array(a["bbox"])), trains(12)),
    Case("catalog_box_tuple", key("bbox", lambda a: tuple(a["bbox"])), trains(12)),
    Case("catalog_box_xyxy", objects(to_xyxy), trains(12)),
    Case("catalog_box_mode_wrong", key("bbox_mode", BoxMode.XYXY_ABS), trains(12, "box")),
    Case("catalog_box_mode_number", key("bbox_mode", 1), trains(12)),
    Case("catalog_box_mode_missing", key("bbox_mode", ...), trains(12, "boxes replaced")),
    Case("catalog_box_missing", key("bbox", ..., HALF), trains(12, "box")),
    Case("catalog_polygon_arrays", key("segmentation", lambda a: [np.array(p) for p in a["segmentation"]]), trains(12)),
    Case("catalog_polygon_float32", key("segmentation", lambda a: [np.array(p, np.float32) for p in a["segmentation"]]),
         trains(12)),
    Case("catalog_polygon_short", key("segmentation", [[1, 1, 5, 5]], HALF), trains(6, r"point.*\b6\b")),
    Case("catalog_rle", key("segmentation", rle), trains(12, "bitmask"), options=("INPUT.MASK_FORMAT", "polygon")),
    Case("catalog_rle_bytes", key("segmentation", lambda a: {**rle(a), "counts": rle(a)["counts"].encode()}),
         trains(12), models=ALL_MODELS),
    Case("catalog_rle_list", key("segmentation", rle_list), trains(12)),
    Case("catalog_rle_cut", key("segmentation", lambda a: {**rle(a), "counts": rle(a)["counts"][:9]}, slice(3, 4)),
         trains(11, r"\b1\b")),
    Case("catalog_rle_size_numpy", key("segmentation", lambda a: {**rle(a), "size": np.array([HEIGHT, WIDTH])}),
         trains(12)),
    Case("catalog_mask_arrays", key("segmentation", mask_array), trains(12)),
    Case("catalog_mask_bool_arrays", key("segmentation", lambda a: mask_array(a) > 0), trains(12)),
    Case("catalog_raises", registered(raises), refused("mine", "annotations.csv")),
    Case("catalog_returns_none", registered(lambda _: 5), refused("mine")),
    Case("catalog_returns_empty", registered(lambda _: []), refused("mine")),
    Case("catalog_returns_iterator", registered(lambda d: iter(d)), trains(12)),
    Case("catalog_returns_tuple", registered(tuple), trains(12)),
    Case("catalog_classes_missing", registered(thing_classes=["c1"]), refused("NUM_CLASSES|category")),
    Case("catalog_coco_instances", coco_instances(), trains(12)),
    Case("catalog_coco_instances_null_crowd", coco_instances(put("iscrowd", None, HALF)), trains(12, "iscrowd")),
    Case("catalog_coco_instances_mixed", coco_instances(put("segmentation", rle, HALF)), trains(12, "bitmask"),
         options=("INPUT.MASK_FORMAT", "polygon")),
]  # fmt: skip
