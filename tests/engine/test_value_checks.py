"""Wrong values in a config stop a run before anything long starts, all in one message."""

import logging

import tellapart
from tellapart.engine.trainer import EVALUATORS
from tellapart.engine.value_checks import check_values, with_tuples_of_names
from tellapart.errors import InputError

import pytest
import torch
from detectron2.config import get_cfg

WRONG = {
    "SOLVER.IMS_PER_BATCH": 0, "SOLVER.MAX_ITER": 0, "SOLVER.CHECKPOINT_PERIOD": 0, "SOLVER.BASE_LR": 0.0,
    "SOLVER.LR_SCHEDULER_NAME": "Cosine", "SOLVER.OPTIMIZER": "adam", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "l2",
    "INPUT.FORMAT": "GBR", "INPUT.RANDOM_FLIP": "both", "INPUT.MASK_FORMAT": "rle", "INPUT.MAX_SIZE_TRAIN": 0,
    "INPUT.MIN_SIZE_TRAIN": (-5,), "INPUT.MIN_SIZE_TRAIN_SAMPLING": "random", "INPUT.MIN_SIZE_TEST": -1,
    "INPUT.MAX_SIZE_TEST": 0, "TEST.EVALUATORS": ["cocoo"], "TEST.DETECTIONS_PER_IMAGE": 0, "TEST.EVAL_PERIOD": -1,
    "TEST.TILE": 5,
    "MODEL.DEVICE": "cude", "MODEL.PIXEL_STD": [1.0, 0.0, 1.0], "MODEL.ROI_HEADS.NUM_CLASSES": 0,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 1.5, "MODEL.ROI_HEADS.NMS_THRESH_TEST": -0.1, "MODEL.RPN.NMS_THRESH": 2.0,
    "DATALOADER.NUM_WORKERS": -1, "DATALOADER.BAD_ANNOTATIONS": "skip", "SEED": 2**32, "DATASETS.TRAIN": (),
    "OUTPUT_DIR": "/dev/null/output",
}  # fmt: skip


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    tellapart.add_config(cfg)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "DATASETS.TRAIN", "('mine',)", "OUTPUT_DIR", str(tmp_path)])
    return cfg


def check(cfg, is_training=True):
    check_values(cfg, tuple(EVALUATORS), is_training)


def set_value(cfg, key, value):
    *sections, last = key.split(".")
    node = cfg
    for section in sections:
        node = node[section]
    node[last] = value


def test_defaults_pass(cfg):
    check(cfg)


@pytest.mark.parametrize("key", WRONG)
def test_each_wrong_value_is_named(cfg, key):
    set_value(cfg, key, WRONG[key])
    with pytest.raises(InputError) as error:
        check(cfg)
    assert f"{key} is {WRONG[key]!r}, expected " in str(error.value)


def test_all_wrong_values_are_in_one_message(cfg):
    cfg.SOLVER.MAX_ITER, cfg.SEED = 0, -2
    with pytest.raises(InputError, match=r"SEED is -2[\s\S]*SOLVER\.MAX_ITER is 0"):
        check(cfg)
    cfg.SEED = 3
    check(cfg, is_training=False)  # the number of iterations does not matter


@pytest.mark.parametrize("key", ["MODEL.LOAD_PROPOSALS", "MODEL.KEYPOINT_ON"])
def test_keys_that_a_method_ignores_are_refused(cfg, key):
    set_value(cfg, key, True)
    cfg.MODEL.META_ARCHITECTURE = "FCIS"
    with pytest.raises(InputError, match=f"{key} is True, expected False for FCIS"):
        check(cfg)
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    check(cfg)


@pytest.mark.parametrize("kind, size, passes", [
    ("relative", [0.5, 0.5], True), ("absolute", [300, 200], True), ("relative", [300, 200], False),
    ("absolute", [0, 200], False), ("absolute", [3], False), ("square", [0.5, 0.5], False),
])  # fmt: skip
def test_crops(cfg, kind, size, passes):
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = kind, size
    check(cfg)  # not enabled
    cfg.INPUT.CROP.ENABLED = True
    if passes:
        check(cfg)
    else:
        with pytest.raises(InputError, match=r"INPUT\.CROP\."):
            check(cfg)


def test_mixed_precision_needs_a_gpu(cfg, monkeypatch):
    cfg.SOLVER.AMP.ENABLED = True
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"SOLVER\.AMP\.ENABLED is True, expected False without a CUDA device"):
        check(cfg)


def test_steps_after_the_end_are_warned_of(cfg, caplog):
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 100, (50, 100)
    with caplog.at_level(logging.WARNING):
        check(cfg)
    assert "SOLVER.STEPS [100] are not before SOLVER.MAX_ITER 100" in caplog.text


def test_one_name_as_text_is_a_tuple(cfg):
    cfg.DATASETS.TEST = "shapes_val"
    cfg.freeze()
    assert with_tuples_of_names(cfg).DATASETS.TEST == ("shapes_val",)
    assert cfg.DATASETS.TEST == "shapes_val"


def test_test_time_augmentation(cfg):
    cfg.TEST.AUG.ENABLED = True
    check(cfg)
    cfg.TEST.AUG.MIN_SIZES = ()
    check(cfg)
    cfg.TEST.AUG.MIN_SIZES = (0, 200)
    with pytest.raises(InputError, match=r"TEST.AUG.MIN_SIZES is \(0, 200\), expected numbers of pixels"):
        check(cfg)
    cfg.TEST.AUG.MIN_SIZES, cfg.MODEL.META_ARCHITECTURE = (), "SemiConvColoring"
    with pytest.raises(InputError, match="TEST.AUG.ENABLED is True, expected False for SemiConvColoring"):
        check(cfg)


def test_a_range_of_sizes_has_two(cfg):
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = (200, 300), "range"
    check(cfg)
    cfg.INPUT.MIN_SIZE_TRAIN = (200,)
    with pytest.raises(InputError, match=r"MIN_SIZE_TRAIN is \(200,\), expected two sizes"):
        check(cfg)
