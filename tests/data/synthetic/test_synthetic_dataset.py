"""The synthetic data sets: reproducible, written as drawn, and usable by a loader and an evaluator."""

import hashlib
import json
import multiprocessing
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import tellapart  # noqa: F401
from tellapart.data import read_dataset
from tellapart.data.synthetic.dots import DOTS, DOTS_JITTERED
from tellapart.data.synthetic.shapes import SHAPES
from tellapart.data.synthetic.worms import WORMS
from tellapart.errors import InputError

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as coco_mask

DATASETS = [SHAPES, DOTS, DOTS_JITTERED, WORMS]
each_dataset = pytest.mark.parametrize("dataset", DATASETS, ids=lambda dataset: dataset.name)


def digest(dataset, seed, index):
    image, objects = dataset.draw(seed, index)
    pixels = [image, *(np.packbits(mask) for _, mask in objects), np.array([category for category, _ in objects])]
    return hashlib.sha256(b"".join(array.tobytes() for array in pixels)).hexdigest()


@each_dataset
def test_image_depends_on_seed_and_index_only(dataset):
    forth = [digest(dataset, 7, i) for i in range(8)]
    assert [digest(dataset, 7, i) for i in reversed(range(8))] == forth[::-1]
    assert len({*forth, *(digest(dataset, 8, i) for i in range(8))}) == 16


def test_other_process_draws_the_same():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_synthetic_dataset as t; "
        "print([t.digest(dataset, 7, i) for dataset in t.DATASETS for i in (5, 2)])"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(Path(__file__).parent)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == str([digest(dataset, 7, i) for dataset in DATASETS for i in (5, 2)])


@each_dataset
def test_written_set_equals_what_is_drawn(dataset, tmp_path):
    json_file, image_root = replace(dataset, splits={"val": (31, 6)}).ensure("val", tmp_path)
    dicts = load_coco_json(json_file, image_root)
    assert len(dicts) == 6
    areas = []
    for i, one in enumerate(dicts):
        image, objects = dataset.draw(31, i)
        np.testing.assert_array_equal(np.asarray(Image.open(one["file_name"])), image)
        assert image.dtype == np.uint8 and (one["height"], one["width"]) == image.shape[:2]
        assert len(one["annotations"]) == len(objects)
        for annotation, (category, mask) in zip(one["annotations"], objects):
            assert annotation["category_id"] == category + 1  # no name given: the ids of the file
            np.testing.assert_array_equal(coco_mask.decode(annotation["segmentation"]).astype(bool), mask)
            rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            assert annotation["bbox"] == [cols[0], rows[0], cols[-1] + 1 - cols[0], rows[-1] + 1 - rows[0]]
            areas.append(mask.sum())
    content = json.loads(Path(json_file).read_text())
    assert [annotation["area"] for annotation in content["annotations"]] == areas
    assert content["categories"] == [{"id": i + 1, "name": name} for i, name in enumerate(dataset.classes)]
    assert Counter(annotation["id"] for annotation in content["annotations"])[0] == 0


def test_longer_split_begins_with_the_shorter(tmp_path):
    dataset = replace(DOTS, splits={"short": (31, 2), "long": (31, 5)})
    short, long = (load_coco_json(*dataset.ensure(split, tmp_path)) for split in dataset.splits)
    for one, other in zip(short, long[:2]):
        assert Path(one["file_name"]).read_bytes() == Path(other["file_name"]).read_bytes()
        assert one["annotations"] == other["annotations"]
    assert len(long) == 5


@each_dataset
def test_evaluator_finds_nothing_missing_in_the_truth(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path))
    name = f"tellapart_test_{dataset.name}_tiny"
    replace(dataset, name=f"tellapart_test_{dataset.name}", splits={"tiny": (31, 2)}).register()
    try:
        assert not list(tmp_path.iterdir())  # drawn when they are asked for
        assert read_dataset(name).classes == list(dataset.classes)
        evaluator = COCOEvaluator(name, ("bbox", "segm"), False, str(tmp_path / "out"))
        evaluator.reset()
        for one in DatasetCatalog.get(name):
            truth, found = one["annotations"], Instances((one["height"], one["width"]))
            found.pred_boxes = Boxes(torch.tensor([a["bbox"] for a in truth]))
            found.pred_boxes.tensor[:, 2:] += found.pred_boxes.tensor[:, :2]
            found.pred_masks = torch.from_numpy(np.stack([coco_mask.decode(a["segmentation"]) for a in truth])).bool()
            found.scores, found.pred_classes = torch.ones(len(truth)), torch.tensor([a["category_id"] for a in truth])
            evaluator.process([{"image_id": one["image_id"]}], [{"instances": found}])
        results = evaluator.evaluate()
        assert results["segm"]["AP"] == pytest.approx(100) and results["bbox"]["AP"] == pytest.approx(100)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@each_dataset
def test_registered_with_metadata(dataset):
    """The metadata exist before the images are drawn."""
    assert {seed for seed, _ in dataset.splits.values()}.isdisjoint(
        {seed for other in DATASETS if other is not dataset for seed, _ in other.splits.values()}
    )
    assert len({seed for seed, _ in dataset.splits.values()}) == 2
    for split in ("train", "val"):
        metadata = MetadataCatalog.get(f"{dataset.name}_{split}")
        assert metadata.thing_classes == list(dataset.classes) and metadata.evaluator_type == "coco"
        assert len(metadata.thing_colors) == len(dataset.classes)
        assert metadata.thing_dataset_id_to_contiguous_id == {i + 1: i for i in range(len(dataset.classes))}


def _ensure(dataset, root, results):
    results.put(dataset.ensure("val", Path(root)))


def test_processes_that_race_agree_and_leave_nothing_behind(tmp_path):
    dataset = replace(SHAPES, splits={"val": (31, 6)})
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_ensure, args=(dataset, str(tmp_path), results)) for _ in range(3)]
    for process in processes:
        process.start()
    assert len({results.get(timeout=60) for _ in processes}) == 1
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"shapes_val_v{dataset.version}"]
    assert len(list(tmp_path.glob("*/images/*.png"))) == 6


def test_interrupted_drawing_leaves_no_half_set(tmp_path):
    def fail(seed, index):
        if index == 2:
            raise KeyboardInterrupt
        return DOTS.draw(seed, index)

    with pytest.raises(KeyboardInterrupt):
        replace(DOTS, draw=fail).ensure("val", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cache_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="TELLAPART_CACHE"):
        DOTS.ensure("val", tmp_path / "file")
