"""Reading, registering and writing COCO files."""

import json
import uuid
from pathlib import Path

import tellapart  # noqa: F401

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import convert_to_coco_json, load_coco_json, register_coco_instances
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.structures import BoxMode

TRIANGLE = [1.0, 2.0, 4.0, 2.0, 4.0, 6.0]


@pytest.fixture
def name():
    return f"coco_{uuid.uuid4().hex}"


@pytest.fixture
def write(tmp_path):
    """A function that writes a COCO file with one annotation and the given changes."""

    def write(annotation=None, annotations=None, **top):
        base = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [1.0, 2.0, 3.0, 4.0], "area": 6.0, "iscrowd": 0}
        base["segmentation"] = [TRIANGLE]
        content = {
            "images": [
                {"id": 8, "file_name": "b.png", "width": 20, "height": 10},
                {"id": 5, "file_name": "sub/a.png", "width": 20, "height": 10},
            ],
            "categories": [{"id": 3, "name": "worm"}, {"id": 1, "name": "disc"}],
            "annotations": annotations or [{**base, **(annotation or {})}],
            **top,
        }
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return str(path)

    return write


def test_dataset_dicts_and_metadata(write, name):
    first, second = load_coco_json(write(), "root", name)
    assert first == {
        "file_name": "root/sub/a.png",
        "height": 10,
        "width": 20,
        "image_id": 5,
        "annotations": [
            {
                "iscrowd": 0,
                "bbox": [1.0, 2.0, 3.0, 4.0],
                "category_id": 1,
                "segmentation": [TRIANGLE],
                "bbox_mode": BoxMode.XYWH_ABS,
            }
        ],
    }
    assert second["image_id"] == 8 and second["annotations"] == []
    meta = MetadataCatalog.get(name)
    assert meta.thing_classes == ["disc", "worm"]
    assert meta.thing_dataset_id_to_contiguous_id == {1: 0, 3: 1}


def test_category_ids_are_kept_without_a_dataset_name(write):
    records = load_coco_json(write({"track": 4}), "root", extra_annotation_keys=["track"])
    assert records[0]["annotations"][0]["category_id"] == 3
    assert records[0]["annotations"][0]["track"] == 4


def test_uncompressed_rle_is_compressed(write):
    crowd = {"segmentation": {"size": [10, 20], "counts": [5, 5, 190]}, "iscrowd": 1}
    annotation = load_coco_json(write(crowd), "root")[0]["annotations"][0]
    assert annotation["iscrowd"] == 1
    assert np.flatnonzero(mask_util.decode(annotation["segmentation"]).T.ravel()).tolist() == [5, 6, 7, 8, 9]


def test_polygons_with_less_than_three_corners_are_removed(write):
    line = [1.0, 2.0, 3.0, 4.0]
    annotation = load_coco_json(write({"segmentation": [line, TRIANGLE]}), "r")[0]["annotations"][0]
    assert annotation["segmentation"] == [TRIANGLE]
    assert load_coco_json(write({"segmentation": [line]}), "r")[0]["annotations"] == []
    assert "segmentation" not in load_coco_json(write({"segmentation": []}), "r")[0]["annotations"][0]


def test_invalid_files_are_refused(write, name, tmp_path):
    with pytest.raises(KeyError, match="category_id=9"):
        load_coco_json(write({"category_id": 9}), "r", name)
    with pytest.raises(ValueError, match="image 5 contains empty 'bbox'"):
        load_coco_json(write({"bbox": []}), "r")
    base = json.loads(Path(write()).read_text())["annotations"][0]
    with pytest.raises(AssertionError, match="not unique"):
        load_coco_json(write(annotations=[base, base]), "r")
    with pytest.raises(ValueError):  # json.JSONDecodeError is a ValueError
        (tmp_path / "broken.json").write_text("{")
        load_coco_json(str(tmp_path / "broken.json"), "r")
    with pytest.raises(FileNotFoundError, match="missing.json"):
        load_coco_json(str(tmp_path / "missing.json"), "r")


def test_register_coco_instances(write, name):
    path = write()
    register_coco_instances(name, {"thing_colors": [[1, 2, 3], [4, 5, 6]]}, path, "root")
    meta = MetadataCatalog.get(name)
    assert (meta.json_file, meta.image_root, meta.evaluator_type) == (path, "root", "coco")
    assert [d["image_id"] for d in DatasetCatalog.get(name)] == [5, 8]
    assert meta.thing_classes == ["disc", "worm"]


def test_written_file_is_read_back(write, name, tmp_path):
    mask = np.zeros((10, 20), np.uint8)
    mask[3:7, 5:9] = 1
    rle = mask_util.encode(np.asfortranarray(mask))
    annotations = [
        {"bbox": [1.0, 2.0, 4.0, 6.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "segmentation": [TRIANGLE]},
        {"bbox": [5.0, 3.0, 4.0, 4.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "segmentation": rle},
        {"bbox": [1.23456, 2.0, 2.0, 5.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 1},
    ]
    record = {"file_name": "a.png", "width": 20, "height": 10, "image_id": 5, "annotations": annotations}
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).thing_classes = ["disc", "worm"]
    MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = {4: 0, 9: 1}
    written = convert_to_coco_dict(name)
    assert [c["id"] for c in written["categories"]] == [4, 9]
    assert [a["category_id"] for a in written["annotations"]] == [9, 4, 4]
    assert [a["bbox"] for a in written["annotations"]] == [[1, 2, 3, 4], [5, 3, 4, 4], [1.235, 2, 2, 5]]
    assert [a["area"] for a in written["annotations"]] == [6, 16, 10]
    assert [a["iscrowd"] for a in written["annotations"]] == [0, 0, 1]
    path = tmp_path / "deep" / "folder" / "out.json"
    convert_to_coco_json(name, str(path))
    again = load_coco_json(str(path), "", name + "_again")[0]["annotations"]
    assert [a["category_id"] for a in again] == [1, 0, 0]
    np.testing.assert_array_equal(mask_util.decode(again[1]["segmentation"]), mask)
    record["annotations"] = []
    convert_to_coco_json(name, str(path))
    assert len(json.loads(path.read_text())["annotations"]) == 3  # cached
    convert_to_coco_json(name, str(path), allow_cached=False)
    assert not json.loads(path.read_text()).get("annotations")
    assert {p.suffix for p in path.parent.iterdir()} <= {".json", ".lock"}  # no temporary file is left
