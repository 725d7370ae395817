"""Data sets are checked against each other before training."""

import logging

import tellapart
from tellapart.data.content import DatasetContent
from tellapart.data.loader import follow_bit_depth
from tellapart.engine.dataset_checks import check_contents
from tellapart.errors import InputError

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.structures import BoxMode
from PIL import Image


@pytest.fixture
def cfg():
    cfg = get_cfg()
    tellapart.add_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    return cfg


def content(name, folder, files=("a.png",), classes=("a", "b"), num_objects=1, size=(30, 20), labeled=True):
    records = []
    for number, file in enumerate(files):
        record = {"file_name": str(folder / file), "image_id": number, "width": size[0], "height": size[1]}
        if labeled:
            box = {"bbox": [2.0, 2.0, 20.0, 15.0], "bbox_mode": BoxMode.XYWH_ABS}
            record["annotations"] = [{"iscrowd": 0, "category_id": 0, **box}] * num_objects
        records.append(record)
    return DatasetContent(name, records, list(classes), list(range(len(classes))), labeled, True)


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (30, 20)).save(tmp_path / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    return tmp_path


def test_good_sets_pass_in_silence(cfg, folder, caplog):
    with caplog.at_level(logging.WARNING):
        check_contents(cfg, [content("one", folder)], [content("two", folder, ("b.png",))])
    assert not caplog.text


@pytest.mark.parametrize("classes, message", [
    (("b", "a"), r"one and two have the same names in another order: category 1 by id is 'a' in one and 'b' in two"),
    (("a", "c"), r"have other names: category 2 by id is 'b' in one and 'c' in two"),
    (("a", "b", "c"), r"category 3 by id is nothing in one and 'c' in two"),
])  # fmt: skip
def test_categories_differ(cfg, folder, classes, message):
    one, two = content("one", folder), content("two", folder, ("b.png",), classes)
    for train, test in (([one], [two]), ([one, two], [])):
        with pytest.raises(InputError, match=message):
            check_contents(cfg, train, test)


def test_mixed_bit_depths(cfg, folder, caplog):
    Image.fromarray(np.full((20, 30), 1000, np.uint16)).save(folder / "deep.png")
    with caplog.at_level(logging.WARNING):
        depths = check_contents(cfg, [content("one", folder)], [content("two", folder, ("deep.png",))])
        assert depths == {"one": {8}, "two": {16}}
        assert "different bit depths (one 8; two 16)" in caplog.text
        caplog.clear()
        cfg.INPUT.SCALING = "percentile"
        check_contents(cfg, [content("one", folder)], [content("two", folder, ("deep.png",))])
        check_contents(cfg, [content("one", folder)], [content("two", folder, ("b.png",))])
    assert not caplog.text


@pytest.mark.parametrize(
    ("scaling", "depths", "expected"),
    [(None, {8}, None), (None, {16}, "percentile"), (None, {8, 16}, None), ("full_range", {16}, "full_range")],
)
def test_the_scaling_is_written_into_the_config(cfg, scaling, depths, expected):
    cfg.INPUT.SCALING = scaling
    assert expected == follow_bit_depth(cfg, depths).INPUT.SCALING and scaling == cfg.INPUT.SCALING


def test_a_file_listed_twice(cfg, folder, caplog):
    with caplog.at_level(logging.WARNING):
        check_contents(cfg, [content("one", folder, ("a.png", "a.png", "b.png"))], [])
    assert "1 files are listed as several images" in caplog.text and "a.png" in caplog.text


def test_files_in_train_and_test(cfg, folder, caplog):
    one, two = content("one", folder, ("a.png", "b.png")), content("two", folder, ("b.png",))
    with caplog.at_level(logging.WARNING):
        check_contents(cfg, [one], [two])
    assert "1 of the 1 images of two are in one as well" in caplog.text


@pytest.mark.parametrize("size, hint", [((31, 20), r"30 x 20 pixels, expected 31 x 20$"), ((20, 30), r"are swapped$")])
def test_sizes(cfg, folder, size, hint):
    with pytest.raises(InputError, match=hint):
        check_contents(cfg, [content("one", folder, size=size)], [])


def test_annotations_of_the_stored_pixels(cfg, folder):
    one = content("one", folder, ("turned.jpg",))
    with pytest.raises(InputError, match=r"turned\.jpg is 20 x 30 .* EXIF orientation 6; set INPUT\.EXIF ignore"):
        check_contents(cfg, [one], [])
    cfg.INPUT.EXIF = "ignore"
    check_contents(cfg, [one], [])


def test_a_test_set_without_labels_and_too_many_objects(cfg, folder, caplog):
    with caplog.at_level(logging.WARNING):
        crowded = content("one", folder, num_objects=101)
        check_contents(cfg, [crowded], [content("two", folder, ("b.png",), labeled=False)])
    assert "two has no 'annotations': predictions are written" in caplog.text
    assert "1 of 1 images have more objects than TEST.DETECTIONS_PER_IMAGE 100 (up to 101)" in caplog.text


def test_wrong_number_of_channels(cfg, folder):
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [1.0] * 5, [1.0] * 5
    with pytest.raises(InputError, match=r"a\.png has 3 channels, and MODEL\.PIXEL_MEAN has 5 values"):
        check_contents(cfg, [content("one", folder)], [])
