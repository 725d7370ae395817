"""Sizes of objects are compared with the anchors or windows of the model."""

from __future__ import annotations

import tellapart
from tellapart.data.statistics import Objects
from tellapart.engine.config_checks import load_config
from tellapart.engine.size_checks import model_templates, resize_factors, shrunk_warnings, size_warnings

import numpy as np
import pytest
import torch

FCIS = "quick/fcis/fcis_R_18_shapes.yaml"
INSTANCE_FCN = "quick/instance_fcn/instance_fcn_R_18_FPN_shapes.yaml"


def config(name: str, *opts: str):
    return load_config(tellapart.model_zoo.get_config_file(name), ["MODEL.DEVICE", "cpu", *opts])


def objects(side: float, number: int = 10, image: int = 128) -> Objects:
    index = np.zeros(number, dtype=np.int64)
    return Objects(np.array([[image, image]]), index, np.full((number, 2), side), index, 0)


@pytest.mark.parametrize("name", [FCIS, INSTANCE_FCN])
def test_objects_of_fitting_sizes_pass(name):
    cfg = config(name)
    for size in np.sqrt(model_templates(cfg).sizes.prod(1)):
        factor = resize_factors(cfg, np.array([[128, 128]]))[0, 0]
        assert size_warnings(cfg, objects(size / factor), "cells") == []


@pytest.mark.parametrize(("name", "key"), [(FCIS, "MODEL.ANCHOR_GENERATOR.SIZES"), (INSTANCE_FCN, "WINDOW_SIZE")])
def test_objects_that_are_too_small(name, key):
    warnings = size_warnings(config(name), objects(2.0), "cells")
    assert len(warnings) == 2 and key in warnings[0] and "100 % of the objects of cells" in warnings[0]
    assert "narrower than one pixel of the finest feature map" in warnings[1]


def test_a_few_small_objects_are_not_worth_a_warning():
    cfg = config(FCIS)
    fitting = objects(float(np.sqrt(model_templates(cfg).sizes.prod(1))[0]))
    fitting.sides[0] = 1.0
    assert size_warnings(cfg, fitting, "cells") == []


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        (("INPUT.MIN_SIZE_TRAIN", "(100, 200)", "INPUT.MAX_SIZE_TRAIN", "1000"), [[1.0, 0.5], [2.0, 1.0]]),
        (("INPUT.MIN_SIZE_TRAIN", "(200,)", "INPUT.MAX_SIZE_TRAIN", "200"), [[1.0, 0.5]]),
        (("INPUT.MIN_SIZE_TRAIN", "(0,)"), [[1.0, 1.0]]),
    ],
)
def test_resize_factors(opts, expected):
    assert resize_factors(config(FCIS, *opts), np.array([[100, 200], [200, 400]])).tolist() == expected


def test_crops_are_resized():
    crop = ("INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", "[50, 50]")
    cfg = config(FCIS, "INPUT.MIN_SIZE_TRAIN", "(100,)", "INPUT.MAX_SIZE_TRAIN", "1000", *crop)
    assert resize_factors(cfg, np.array([[100, 200]])).tolist() == [[2.0]]


def test_random_numbers_are_not_consumed():
    before = torch.random.get_rng_state()
    size_warnings(config(FCIS), objects(2.0), "cells")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_models_without_templates_are_not_checked():
    assert size_warnings(config("quick/coloring/coloring_worms.yaml"), objects(1.0), "cells") == []
    assert size_warnings(config(FCIS), objects(1.0, 0), "cells") == []


def test_test_images_that_are_shrunk_are_warned_of():
    cfg = config(FCIS, "INPUT.MIN_SIZE_TEST", "256", "INPUT.MAX_SIZE_TEST", "320")
    sizes = np.array([[256, 256], [1024, 1024], [400, 800]])
    (warning,) = shrunk_warnings(cfg, 1.0, sizes, "val")
    assert "val: 2 of 3 images are resized to less than half of the training images' scale (by 0.25" in warning
    assert shrunk_warnings(cfg, None, sizes, "val") == shrunk_warnings(cfg, 0.3, sizes, "val") == []
    cfg.TEST.TILE = "auto"
    assert shrunk_warnings(cfg, 1.0, sizes, "val") == []
