"""What is not part of the embedded Detectron2: one message, and the usual kinds of errors."""

import importlib

import tellapart  # noqa: F401

import detectron2
import pytest

MESSAGE = r"not part of the embedded detectron2 \(see its README.md\): build the real one with `make detectron2`"

if "embedded" not in detectron2.__version__:
    pytest.skip("the real Detectron2 has all of its parts", allow_module_level=True)


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("import detectron2.export", "detectron2.export"),
        ("import detectron2.projects.point_rend", "detectron2.projects"),
        ("from detectron2.projects import point_rend", "detectron2.projects"),
        ("from detectron2 import export", "detectron2.export"),
        ("from detectron2.structures import RotatedBoxes", "detectron2.structures.RotatedBoxes"),
        ("from detectron2.structures.boxes import pairwise_ioa", "detectron2.structures.boxes.pairwise_ioa"),
        ("from detectron2.modeling import RetinaNet", "detectron2.modeling.RetinaNet"),
    ],
)
def test_import_of_what_is_missing(statement, what):
    with pytest.raises(ImportError, match=f"{what} is {MESSAGE}"):
        exec(statement)


def test_attribute_that_is_missing():
    from detectron2.utils import events

    for module in (detectron2, detectron2.structures, events):
        assert not hasattr(module, "Missing")
        with pytest.raises(AttributeError, match=rf"{module.__name__}.Missing is {MESSAGE}"):
            module.Missing  # noqa: B018
        assert getattr(module, "Missing", 3) == 3


def test_what_is_there_is_found():
    assert detectron2.structures.Boxes is importlib.import_module("detectron2.structures.boxes").Boxes
    namespace: dict = {}
    exec("from detectron2.structures import *\nfrom detectron2.utils import comm", namespace)
    assert {"Boxes", "comm"} <= set(namespace)
    with pytest.raises(ModuleNotFoundError, match="No module named 'nonesuch'"):
        importlib.import_module("nonesuch")


def test_registry_names_what_it_has():
    from detectron2.modeling import META_ARCH_REGISTRY

    assert META_ARCH_REGISTRY.get("GeneralizedRCNN").__name__ == "GeneralizedRCNN"
    with pytest.raises(KeyError, match=f"'RetinaNet' found in 'META_ARCH' registry.*GeneralizedRCNN.*{MESSAGE}"):
        META_ARCH_REGISTRY.get("RetinaNet")


def test_settings():
    error = importlib.import_module("detectron2._missing").not_included("MODEL.X True")
    assert isinstance(error, NotImplementedError)
    assert str(error).startswith("MODEL.X True is not part")


@pytest.mark.parametrize("key", ["KEYPOINT_ON", "LOAD_PROPOSALS"])
def test_mapper_of_what_is_missing(key):
    from detectron2.config import get_cfg
    from detectron2.data import DatasetMapper

    cfg = get_cfg()
    cfg.MODEL[key] = True
    with pytest.raises(NotImplementedError, match=f"MODEL.{key} True is {MESSAGE}"):
        DatasetMapper(cfg, True)
