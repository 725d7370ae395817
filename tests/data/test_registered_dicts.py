"""Data sets that are registered in Python pass through the same reader."""

import json

import tellapart  # noqa: F401
from tellapart.data import read_dataset
from tellapart.data.reader import evaluation_metadata
from tellapart.errors import InputError

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

NAME = "tellapart_test_dicts"
POLYGON = [2.0, 2.0, 12.0, 2.0, 12.0, 8.0, 2.0, 8.0]


@pytest.fixture
def register(tmp_path):
    """Write an image of 20 x 10 pixels and register dicts under NAME."""
    Image.new("L", (20, 10)).save(tmp_path / "a.png")

    def add(*records, classes=("a", "b")):
        base = {"file_name": str(tmp_path / "a.png")}
        DatasetCatalog.register(NAME, lambda: [{**base, **record} for record in records])
        if classes:
            MetadataCatalog.get(NAME).thing_classes = list(classes)
        return NAME

    yield add
    for name in (NAME, f"{NAME} (normalized)"):
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


def annotation(**changes):
    one = {"bbox": [2, 2, 12, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "segmentation": [POLYGON], **changes}
    return {key: value for key, value in one.items() if value is not ...}


def record(*annotations, **changes):
    return {"height": 10, "width": 20, "image_id": "x", "annotations": list(annotations), **changes}


def test_clean_dicts_stay_as_they_are(register):
    given = record(annotation(note="kept"), annotation(iscrowd=1), extra=5)
    content = read_dataset(register(given))
    (read,) = content.records
    assert read["extra"] == 5 and read["annotations"][0] == {**annotation(note="kept"), "iscrowd": 0}
    assert read["annotations"][0]["segmentation"] is given["annotations"][0]["segmentation"]
    assert not content.changes and content.has_polygons and not content.has_rle and content.classes == ["a", "b"]


def test_crowds_do_not_decide_the_mask_format(register):
    """COCO's crowds are RLE and are not trained on: its polygons stay polygons."""
    crowd = annotation(iscrowd=1, segmentation={"size": [10, 20], "counts": [10, 90, 100]}, bbox=[1, 0, 10, 10])
    content = read_dataset(register(record(annotation(), crowd)))
    assert content.has_polygons and not content.has_rle and not content.bad


def test_numpy_values_and_missing_keys(register):
    numbers = annotation(
        category_id=np.int64(1),
        bbox=np.array([2, 2, 12, 8.0]),
        segmentation=[np.array(POLYGON)],
        iscrowd=np.bool_(False),
    )
    content = read_dataset(register({"annotations": [numbers]}, {"annotations": [annotation()]}))
    first, second = content.records
    assert (first["height"], first["width"], first["image_id"], second["image_id"]) == (10, 20, 1, 2)
    assert type(first["annotations"][0]["category_id"]) is int and first["annotations"][0]["iscrowd"] == 0
    assert "without a unique 'image_id'" in content.changes.summary() and not content.bad


def test_classes_are_numbered_without_thing_classes(register):
    content = read_dataset(register(record(annotation(category_id=2)), classes=None))
    assert content.classes == ["0", "1", "2"] and "thing_classes" in content.changes.summary()


def test_bad_annotations_are_dropped_or_stop(register):
    mask = np.zeros((10, 20), bool)
    mask[2:8, 2:12] = True
    bad = [annotation(segmentation=[[1, 2, 3, 4]]), annotation(segmentation={"size": [10, 20], "counts": "~"})]
    name = register(record(*bad, annotation(segmentation=mask)))
    content = read_dataset(name)
    assert [one["segmentation"]["size"] for one in content.records[0]["annotations"]] == [[10, 20]]
    assert "without a usable mask left out: 2" in content.bad.summary()
    with pytest.raises(InputError, match=r"BAD_ANNOTATIONS is stop[^$]*without a usable mask left out: 2"):
        read_dataset(name, bad_annotations="stop")


@pytest.mark.parametrize(
    "records, message",
    [
        ([record(annotation(category_id=2))], r"annotation 1 names category '2', expected .*: 0, 1"),
        ([record(annotation(bbox_mode=..., segmentation=...))], r"'bbox_mode' is missing"),
        ([record(annotation(bbox_mode=9))], r"'bbox_mode' is 9"),
        ([record(file_name="/nowhere/a.png")], r"1 of 1 images do not exist: /nowhere/a\.png"),
        ([record(file_name=5)], r"'file_name' of dict number 1 is 5"),
        ([], r"returns no image"),
        ([record(height=0)], r"has the size 20 x 0"),
    ],
)
def test_one_message(register, records, message):
    with pytest.raises(InputError, match=message):
        read_dataset(register(*records))


def test_a_function_that_fails_is_named(register):
    DatasetCatalog.register(NAME, lambda: 1 / 0)
    with pytest.raises(InputError, match=r"its registered function raises ZeroDivisionError: division by zero"):
        read_dataset(NAME)


def test_the_evaluator_reads_the_same_objects(register, tmp_path):
    name = register(record(annotation(), annotation(segmentation=[[]]), annotation(iscrowd=None, category_id=1)))
    content = read_dataset(name)
    metadata_name = evaluation_metadata(content, str(tmp_path / "out"))
    written = json.loads((tmp_path / "out" / f"{NAME}_annotations.json").read_text())
    assert [one["category_id"] for one in written["annotations"]] == [0, 1]
    evaluator = COCOEvaluator(metadata_name, output_dir=str(tmp_path / "out"))
    evaluator.reset()
    instances = Instances((10, 20))
    instances.pred_boxes = Boxes(torch.tensor([[2.0, 2.0, 12.0, 8.0]] * 2))
    instances.scores, instances.pred_classes = torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
    instances.pred_masks = torch.zeros(2, 10, 20, dtype=torch.bool)
    instances.pred_masks[:, 2:8, 2:12] = True
    evaluator.process([{"image_id": "x"}], [{"instances": instances}])
    results = evaluator.evaluate()
    assert results["segm"]["AP"] == pytest.approx(100) and results["bbox"]["AP"] == pytest.approx(100)
