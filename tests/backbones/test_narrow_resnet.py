"""Narrow ResNets: equal to Detectron2's at 64 channels, and with the expected channels at 32."""

from tellapart.errors import InputError

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone


def build(name: str, width: int, depth: int = 18, out_features: tuple[str, ...] = ("res2", "res3", "res4", "res5")):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.RESNETS.update({"DEPTH": depth, "NORM": "BN", "STEM_OUT_CHANNELS": width, "RES2_OUT_CHANNELS": width})
    cfg.MODEL.RESNETS.OUT_FEATURES = list(out_features)
    cfg.MODEL.FPN.update({"IN_FEATURES": list(out_features), "OUT_CHANNELS": width})
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0] * 3, [1.0] * 3
    return build_backbone(cfg, ShapeSpec(channels=3)).eval()


@pytest.mark.parametrize("fpn", ["", "_fpn"])
@pytest.mark.parametrize("depth", [18, 34])
def test_64_channels_are_detectron2s(depth, fpn):
    reference = build(f"build_resnet{fpn}_backbone", 64, depth)
    narrow = build(f"build_narrow_resnet{fpn}_backbone", 64, depth)
    narrow.load_state_dict(reference.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected, features = reference(images), narrow(images)
    assert expected.keys() == features.keys()
    assert all(torch.equal(expected[name], features[name]) for name in expected)
    assert reference.output_shape() == narrow.output_shape()


def test_32_channels():
    narrow = build("build_narrow_resnet_backbone", 32, out_features=("res3", "res4"))
    with torch.no_grad():
        features = narrow(torch.randn(2, 3, 64, 96))
    assert {name: tuple(map_.shape) for name, map_ in features.items()} == {
        "res3": (2, 64, 8, 12), "res4": (2, 128, 4, 6),
    }  # fmt: skip
    assert not hasattr(narrow, "res5")


@pytest.mark.parametrize("change, key", [({"depth": 50}, "DEPTH is 50"), ({"out_features": ("res7",)}, "OUT_FEATURES")])
def test_errors_name_the_key(change, key):
    with pytest.raises(InputError, match=key):
        build("build_narrow_resnet_backbone", 32, **change)
