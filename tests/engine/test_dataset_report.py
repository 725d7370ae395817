"""``tellapart check``: what it prints, its exit codes, and that its suggestion can be trained."""

from __future__ import annotations

import json
import logging
import re
import shlex

from tellapart.engine.dataset_report import check
from tellapart_cli import argument_parser, main

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog


@pytest.fixture(autouse=True)
def clean():
    """Remove the data sets and the log handlers that a check adds."""
    names, logger = set(DatasetCatalog.list()), logging.getLogger("tellapart")
    handlers, propagate = logger.handlers, logger.propagate
    yield
    logger.handlers, logger.propagate = handlers, propagate
    for name in set(DatasetCatalog.list()) - names:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def edited(tiny_set, folder, change) -> str:
    content = json.loads(tiny_set[0].read_text())
    change(content)
    (folder / "other.json").write_text(json.dumps(content))
    return f"{folder / 'other.json'}:{tiny_set[1]}"


def test_a_good_data_set(tiny_set, capsys):
    assert check([f"{tiny_set[0]}:{tiny_set[1]}"]) == 0
    printed = capsys.readouterr().out
    assert "images: 8, 0 of them without objects" in printed and "objects: 16; per image 2 to 2, median 2" in printed
    assert "files: 8 of 8 opened: 8 x RGB, 8 bits, 3 channels" in printed
    assert "suggestion: fcis" in printed and "NUM_CLASSES 2" in printed


def test_the_suggestion_trains(tiny_set, tmp_path, capsys, forget):
    check([f"mine={tiny_set[0]}:{tiny_set[1]}"])
    printed = capsys.readouterr().out
    config, words = re.search(r"which trains (\S+) with (.*)", printed).groups()
    options = shlex.split(words)
    forget("mine")
    short = ["SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "OUTPUT_DIR", str(tmp_path), "DATASETS.TEST", "()"]
    words = ["--config-file", config, "--register", f"mine={tiny_set[0]}:{tiny_set[1]}"]
    main(["train", *words, "DATASETS.TRAIN", "('mine',)", *options, *short])
    assert (tmp_path / "model_final.pth").is_file()


def test_boxes_without_masks(tiny_set, tmp_path, capsys):
    def without_masks(content):
        for annotation in content["annotations"]:
            del annotation["segmentation"]

    assert check([edited(tiny_set, tmp_path, without_masks)]) == 0
    assert "mask_rcnn" in (printed := capsys.readouterr().out) and "MODEL.MASK_ON False" in printed


def test_data_that_cannot_be_trained_on(tiny_set, tmp_path, capsys):
    def all_crowds(content):
        for annotation in content["annotations"]:
            annotation["iscrowd"] = 1

    assert check([edited(tiny_set, tmp_path, all_crowds)]) == 1
    assert "all 16 annotations are crowds" in capsys.readouterr().err


def test_categories_of_two_sets(tiny_set, tmp_path, capsys):
    def swap(content):
        first, second = content["categories"]
        first["name"], second["name"] = second["name"], first["name"]

    assert check([f"{tiny_set[0]}:{tiny_set[1]}", edited(tiny_set, tmp_path, swap)]) == 1
    assert "same names in another order" in capsys.readouterr().err


def test_a_config(tiny_set, capsys):
    data = f"{tiny_set[0]}:{tiny_set[1]}"
    config = "quick/fcis/fcis_R_18_nuclei.yaml"
    assert check([data], config) == 1
    assert "NUM_CLASSES is 1, but data set" in capsys.readouterr().err
    assert check([data], config, ["MODEL.ROI_HEADS.NUM_CLASSES", "2"]) == 0
    assert check([data], config, ["MODEL.ROI_HEADS.NUM_CLASSES", "2", "SOLVER.MAX_ITER", "0"]) == 1
    assert "SOLVER.MAX_ITER is 0" in capsys.readouterr().err


@pytest.mark.parametrize("data", [[], ["nowhere.json"], ["no_such_name"], ["a.json:"]])
def test_no_data(data, capsys):
    assert check(data) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_command_line():
    args = argument_parser().parse_args(["check", "a.json:images", "b.json", "--opts", "SEED", "1"])
    assert args.data == ["a.json:images", "b.json"] and args.opts == ["SEED", "1"] and args.config_file == ""
