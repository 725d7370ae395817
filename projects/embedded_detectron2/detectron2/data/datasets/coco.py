"""Read, register and write datasets in COCO's instance format."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import logging
import os

import numpy as np
import pycocotools.mask as mask_util
from fvcore.common.timer import Timer
from pycocotools.coco import COCO

from detectron2.structures import BoxMode, PolygonMasks
from detectron2.utils.file_io import PathManager

from ..catalog import DatasetCatalog, MetadataCatalog

logger = logging.getLogger(__name__)


def _read_coco(json_file: str) -> COCO:
    timer = Timer()
    path = PathManager.get_local_path(json_file)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise ValueError(f"{json_file} is not valid JSON: {e}") from e
    if timer.seconds() > 1:
        logger.info(f"Loading {json_file} takes {timer.seconds():.2f} seconds.")
    return coco


def _valid_segmentation(segm: list | dict) -> list | dict | None:
    """Return the polygons with at least 3 corners, or a compressed RLE, or None if no polygon is left."""
    if isinstance(segm, dict):
        return mask_util.frPyObjects(segm, *segm["size"]) if isinstance(segm["counts"], list) else segm
    return [p for p in segm if len(p) % 2 == 0 and len(p) >= 6] or None


def load_coco_json(
    json_file: str, image_root: str, dataset_name: str | None = None, extra_annotation_keys: list[str] | None = None
) -> list[dict]:
    """Read a file in COCO's instance format, without opening the images.

    Args:
        json_file: path of the file.
        image_root: folder of the images.
        dataset_name: if given, category ids are mapped to 0..n-1 in the order of the ids, and "thing_classes" and
            "thing_dataset_id_to_contiguous_id" of the dataset's metadata are set.
        extra_annotation_keys: further keys of the annotations to keep.

    Returns:
        Dicts in the order of image ids, with "file_name", "height", "width", "image_id" and "annotations". These are
        dicts with "bbox" (XYWH_ABS), "bbox_mode" and "category_id" and, if the file has them, "iscrowd" and
        "segmentation".

    Raises:
        ValueError: the file is not JSON, or a "bbox" is empty.
        KeyError: an annotation has a category that "categories" does not have.
        AssertionError: annotation ids are not unique.
    """
    coco = _read_coco(json_file)
    id_map = None
    if dataset_name is not None:
        categories = coco.loadCats(sorted(coco.getCatIds()))
        id_map = {c["id"]: i for i, c in enumerate(categories)}
        meta = MetadataCatalog.get(dataset_name)
        meta.thing_classes = [c["name"] for c in categories]
        if id_map and not (min(id_map) == 1 and max(id_map) == len(id_map)):
            logger.warning(
                "\nCategory ids in annotations are not in [1, #categories]! We'll apply a mapping for you.\n"
            )
        meta.thing_dataset_id_to_contiguous_id = id_map

    image_ids = sorted(coco.imgs)
    images = coco.loadImgs(image_ids)
    annotations = [coco.imgToAnns[i] for i in image_ids]
    total = len(coco.anns)
    matched = sum(map(len, annotations))
    if matched < len(coco.dataset.get("annotations", [])):
        logger.warning(
            f"{json_file} contains {total} annotations, but only {matched} of them match to images in the file."
        )
    ids = [a["id"] for of_image in annotations for a in of_image]
    assert len(set(ids)) == len(ids), f"Annotation ids in '{json_file}' are not unique!"
    logger.info(f"Loaded {len(images)} images in COCO format from {json_file}")

    keys = ["iscrowd", "bbox", "category_id", *(extra_annotation_keys or [])]
    without_segmentation = 0
    dataset_dicts = []
    for image, of_image in zip(images, annotations):
        objs = []
        for annotation in of_image:
            assert annotation["image_id"] == image["id"], f"annotation {annotation['id']} belongs to another image"
            assert annotation.get("ignore", 0) == 0, '"ignore" in COCO json file is not supported.'
            obj = {key: annotation[key] for key in keys if key in annotation}
            if "bbox" in obj and len(obj["bbox"]) == 0:
                raise ValueError(
                    f"One annotation of image {image['id']} contains empty 'bbox' value! "
                    f"{json_file} does not have valid COCO format."
                )
            if annotation.get("segmentation"):
                obj["segmentation"] = _valid_segmentation(annotation["segmentation"])
                if obj["segmentation"] is None:
                    without_segmentation += 1
                    continue
            obj["bbox_mode"] = BoxMode.XYWH_ABS
            if id_map is not None:
                if obj["category_id"] not in id_map:
                    raise KeyError(
                        f"Encountered category_id={obj['category_id']} but this id does not exist in 'categories' "
                        f"of the json file. ({json_file}, annotation {annotation['id']})"
                    )
                obj["category_id"] = id_map[obj["category_id"]]
            objs.append(obj)
        record = {"file_name": os.path.join(image_root, image["file_name"])}
        record.update(height=image["height"], width=image["width"], image_id=image["id"], annotations=objs)
        dataset_dicts.append(record)
    if without_segmentation:
        logger.warning(
            f"Filtered out {without_segmentation} instances without valid segmentation. "
            "There might be issues in your dataset generation process."
        )
    return dataset_dicts


def register_coco_instances(name: str, metadata: dict, json_file: str, image_root: str) -> None:
    """Register a file in COCO's instance format as the dataset ``name``, and set its metadata."""
    assert isinstance(name, str), name
    assert isinstance(json_file, (str, os.PathLike)), json_file
    assert isinstance(image_root, (str, os.PathLike)), image_root
    DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)


def _to_coco_annotation(annotation: dict) -> dict:
    """Convert an annotation's box, area and segmentation to COCO's format.

    The area is that of the mask or, without one, of the box.
    """
    bbox = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
    coco = {"bbox": [round(float(x), 3) for x in bbox], "iscrowd": int(annotation.get("iscrowd", 0))}
    segm = annotation.get("segmentation")
    if not segm:
        coco["area"] = float(bbox[2]) * float(bbox[3])
    elif isinstance(segm, list):
        coco["area"] = float(PolygonMasks([segm]).area()[0])
        coco["segmentation"] = [np.asarray(p).tolist() for p in segm]
    elif isinstance(segm, dict):
        coco["area"] = float(mask_util.area(segm))
        counts = segm["counts"]
        coco["segmentation"] = {**segm, "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}
    else:
        raise TypeError(f"segmentation is a {type(segm)}, expected polygons or an RLE")
    return coco


def convert_to_coco_dict(dataset_name: str) -> dict:
    """Convert a registered dataset, with "thing_classes" in its metadata, to the contents of a COCO file.

    Category ids are those of "thing_dataset_id_to_contiguous_id" or, if the metadata does not have it, 0..n-1.
    """
    meta = MetadataCatalog.get(dataset_name)
    to_original = {v: k for k, v in meta.get("thing_dataset_id_to_contiguous_id", {}).items()}
    categories = [{"id": to_original.get(i, i), "name": name} for i, name in enumerate(meta.thing_classes)]
    logger.info("Converting dataset dicts into COCO format")
    images, annotations = [], []
    for index, d in enumerate(DatasetCatalog.get(dataset_name)):
        image = {"id": d.get("image_id", index), "width": int(d["width"]), "height": int(d["height"])}
        images.append({**image, "file_name": str(d["file_name"])})
        for a in d.get("annotations", []):
            ids = {"id": len(annotations) + 1, "image_id": image["id"]}
            category = {"category_id": to_original.get(a["category_id"], a["category_id"])}
            annotations.append({**ids, **_to_coco_annotation(a), **category})
    logger.info(f"Conversion finished, #images: {len(images)}, #annotations: {len(annotations)}")
    description = "Automatically generated COCO json file for Detectron2."
    info = {"date_created": str(datetime.datetime.now()), "description": description}
    return {"info": info, "images": images, "categories": categories, "licenses": None, "annotations": annotations}


def convert_to_coco_json(dataset_name: str, output_file: str, allow_cached: bool = True) -> None:
    """Write `convert_to_coco_dict` to a file, unless the file exists and ``allow_cached`` is True."""
    if os.path.exists(output_file) and allow_cached:
        logger.warning(
            f"Using previously cached COCO format annotations at '{output_file}'. "
            "You need to clear the cache file if your dataset has been modified."
        )
        return
    logger.info(f"Converting annotations of dataset '{dataset_name}' to COCO format ...)")
    coco_dict = convert_to_coco_dict(dataset_name)
    logger.info(f"Caching COCO format annotations at '{output_file}' ...")
    write_json_atomically(output_file, coco_dict)


def write_json_atomically(path: str, content) -> None:
    """Write a JSON file under a temporary name and rename it, so that nobody reads an incomplete file."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w") as f:
        json.dump(content, f)
    os.replace(temporary, path)
