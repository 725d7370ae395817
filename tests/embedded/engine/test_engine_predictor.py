"""DefaultPredictor: the input of the model, and the output."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import META_ARCH_REGISTRY
from helpers_engine import EMBEDDED
from torch import nn


@META_ARCH_REGISTRY.register()
class EngineTestEcho(nn.Module):
    """A model that returns its input."""

    def __init__(self, cfg):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs):
        assert not self.training and not torch.is_grad_enabled()
        return [{"given": x, "weight": self.weight.item()} for x in inputs]


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_predictor(tmp_path, order):
    torch.save({"model": {"weight": torch.full((1,), 4.0)}}, tmp_path / "w.pth")
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "EngineTestEcho", "cpu", str(tmp_path / "w.pth")
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT = 40, 70, order
    cfg.DATASETS.TEST = ("engine_test_set",)
    MetadataCatalog.get("engine_test_set").thing_classes = ["x"]
    predictor = DefaultPredictor(cfg)
    assert predictor.metadata.thing_classes == ["x"]
    image = np.zeros((20, 40, 3), np.uint8)
    image[..., 0], image[..., 2] = 200, 10
    output = predictor(image)
    assert output["weight"] == 4.0
    given = output["given"]
    assert (given["height"], given["width"]) == (20, 40)
    # With a short side of 40, the long side would be 80, but the maximum is 70.
    assert given["image"].shape == (3, 35, 70) and given["image"].dtype == torch.float32
    channels = given["image"].mean(dim=(1, 2)).tolist()
    assert channels == ([200, 0, 10] if order == "BGR" else [10, 0, 200])


@pytest.mark.skipif(not EMBEDDED, reason="the real Detectron2 does not check images")
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, r"image is NoneType of shape \(\), expected uint8 \(H, W, 3\), BGR \(None: no image file\)"),
        ("a.png", "image is str"),
        (np.zeros((20, 40), np.uint8), r"image is uint8 of shape \(20, 40\), expected"),
        (np.zeros((20, 40, 4), np.uint8), r"image is uint8 of shape \(20, 40, 4\)"),
        (np.zeros((0, 40, 3), np.uint8), r"image is uint8 of shape \(0, 40, 3\)"),
        (np.full((20, 40, 3), 4000, np.uint16), "image is uint16"),
        (np.full((20, 40, 3), 0.5, np.float32), "image is float32"),
        (np.full((20, 40, 3), np.nan, np.float32), "image is float32"),
    ],
)
def test_predictor_images_that_are_refused(image, message):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "EngineTestEcho", "cpu"
    with pytest.raises(ValueError, match=message):
        DefaultPredictor(cfg)(image)


def test_predictor_floats_are_read_as_pixels():
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "EngineTestEcho", "cpu"
    output = DefaultPredictor(cfg)(np.full((20, 40, 3), 100.0, np.float32))
    assert float(output["given"]["image"].mean()) == 100.0


def test_predictor_unknown_input_format():
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE, cfg.INPUT.FORMAT = "EngineTestEcho", "cpu", "HSV"
    with pytest.raises(AssertionError, match="HSV"):
        DefaultPredictor(cfg)
