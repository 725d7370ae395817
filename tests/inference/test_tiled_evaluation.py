"""Evaluation of many objects and of large images: no limit of 100, and the same AP in tiles as of the whole image."""

from __future__ import annotations

import tellapart
from tellapart import InputError
from tellapart.data.image_source import ArraySource
from tellapart.engine.model_info import ModelInfo
from tellapart.engine.trainer import Trainer
from tellapart.inference.image_model import Tiling, parse_tile
from tellapart.inference.limits import Limits
from tellapart.inference.mask_crops import MaskCrops

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from discs import ComponentModel, disc_grid
from pycocotools import mask as coco_mask
from scipy import ndimage


@pytest.fixture
def register():
    """A function that registers an image of discs as a data set, and returns its name."""
    names = []

    def add(path, gray: np.ndarray) -> str:
        cv2.imwrite(str(path), gray)
        labels, number = ndimage.label(gray > 127)
        annotations = []
        for i in range(1, number + 1):
            rle = coco_mask.encode(np.asfortranarray(labels == i, dtype=np.uint8))
            box = coco_mask.toBbox(rle).tolist()
            annotations.append({"segmentation": rle, "bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0})
        record = {"file_name": str(path), "image_id": 1, "height": len(gray), "width": gray.shape[1]}
        name = f"discs_{len(names)}"
        DatasetCatalog.register(name, lambda: [{**record, "annotations": annotations}])
        MetadataCatalog.get(name).set(thing_classes=["disc"])
        names.append(name)
        return name

    yield add
    for name in names:
        for catalog in (DatasetCatalog, MetadataCatalog):
            for one in (name, f"{name} (normalized)"):
                if one in catalog.list():
                    catalog.remove(one)


def evaluate(name: str, output, size: int, **test_options: object) -> dict:
    cfg = get_cfg()
    tellapart.add_config(cfg)
    cfg.DATASETS.TEST, cfg.OUTPUT_DIR, cfg.MODEL.DEVICE = (name,), str(output), "cpu"
    cfg.MODEL.MASK_ON, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.DATALOADER.NUM_WORKERS = True, 1, 0
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = size
    cfg.TEST.CONTACT_SHEET.NUM_IMAGES = 0
    for key, value in test_options.items():
        cfg.TEST[key] = value
    output.mkdir(exist_ok=True)
    return Trainer.test(cfg, ComponentModel())


@pytest.mark.parametrize("rows, columns", [(10, 10), (10, 20), (20, 20), (25, 40)])
def test_perfect_objects_have_an_ap_of_100(register, tmp_path, rows, columns):
    gray = disc_grid(rows, columns, pitch=12, radius=4.2)
    name = register(tmp_path / "discs.png", gray)
    results = evaluate(name, tmp_path / "out", max(gray.shape), DETECTIONS_PER_IMAGE=max(100, rows * columns))
    assert results["segm"]["AP"] == pytest.approx(100) and results["bbox"]["AP"] == pytest.approx(100)
    assert results["instances"]["F1"] == 100 and results["instances"]["AJI"] == 100


@pytest.mark.parametrize("evaluators", [["coco", "instances"], ["coco", "mask_proposals"]])
def test_a_large_image_is_evaluated_in_tiles(register, tmp_path, evaluators, monkeypatch):
    gray = disc_grid(20, 25)
    name = register(tmp_path / "discs.png", gray)
    (tmp_path / "out").mkdir()
    ModelInfo(["disc"], scale=1.0, scale_low=0.9, object_size=16.0).write(tmp_path / "out")
    # At 100 px, a disc of 15 px has 3 px.
    shrunk = evaluate(name, tmp_path / "out", 100, EVALUATORS=evaluators)
    if "instances" in evaluators:
        monkeypatch.setattr(MaskCrops, "__array__", None)  # masks of the whole image need too much memory
    tiled = evaluate(name, tmp_path / "out", 100, EVALUATORS=evaluators, TILE="auto")
    assert tiled["segm"]["AP"] == pytest.approx(100) and shrunk["segm"]["AP"] < 70
    if "instances" in evaluators:
        assert tiled["instances"]["count_error"] == 0


def test_tiles_with_as_many_objects_as_the_model_returns_are_named(register, tmp_path, caplog):
    gray = disc_grid(20, 25)
    name = register(tmp_path / "discs.png", gray)
    with caplog.at_level("INFO", logger="tellapart"):
        evaluate(name, tmp_path / "out", 100, TILE=200, DETECTIONS_PER_IMAGE=20)
    assert "tiles have as many instances as TEST.DETECTIONS_PER_IMAGE (20)" in caplog.text
    assert "1 images predicted in " in caplog.text


def test_limits_of_several_processes_are_added():
    cfg = get_cfg()
    tellapart.add_config(cfg)
    info = ModelInfo(["disc"], scale=1.0)
    one, other = Limits(cfg, info), Limits(cfg, info)
    one.num_full_tiles, other.num_full_tiles = 1, 2
    one.add_resized(0.4)
    other.add_resized(0.3)
    other.add_tiled(ArraySource(*[np.zeros((300, 300, 3), np.uint8)] * 2), Tiling(200, 50, 1.0))
    one.add(other)
    assert one.notes()[0].startswith("1 images predicted in 4 tiles")
    assert one.warnings()[0].startswith("3 tiles") and one.warnings()[1].startswith("2 images were resized")
    assert "by 0.3" in one.warnings()[1]


@pytest.mark.parametrize("value", ["large", 0, "12", None, 3.5])
def test_invalid_tiles_are_refused(value):
    with pytest.raises(InputError, match="expected auto, off"):
        parse_tile(value)
