"""The dilated VGG-16: strides, dilation, frozen stages, and torchvision's weights."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from tellapart import InputError, add_config
from tellapart.backbones.vgg import DilatedVGG16, from_torchvision

import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch.nn import functional as F


@pytest.fixture(scope="module", params=["vgg16", "vgg16_bn"])
def pair(request):
    """torchvision's network with random weights, and a DilatedVGG16 with the same weights."""
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, request.param)(weights=None).eval()
    ours = DilatedVGG16(3, ["conv2", "conv4", "conv5"], "BN" if "bn" in request.param else "").eval()
    converted = from_torchvision(theirs.state_dict())
    ours.load_state_dict({name.removeprefix("backbone."): value for name, value in converted.items()})
    return theirs.features, ours


def test_torchvision_weights_give_torchvision_features(pair):
    """The networks are equal up to conv4. Sizes are multiples of 8, since torchvision rounds other sizes down."""
    theirs, ours = pair
    image = torch.randn(1, 3, 48, 40)
    with torch.no_grad():
        features = ours(image)
        pools = [i for i, layer in enumerate(theirs) if isinstance(layer, torch.nn.MaxPool2d)]
        for name, end in (("conv2", pools[1]), ("conv4", pools[3])):
            assert torch.allclose(features[name], theirs[:end](image), rtol=1e-4, atol=1e-5), name


def test_conv5_is_dilated_and_has_stride_8(pair):
    """Expected: pool4 with stride 1, then the three convolutions with dilation 2."""
    theirs, ours = pair
    image = torch.randn(1, 3, 48, 40)
    with torch.no_grad():
        features = ours(image)
        x = F.max_pool2d(F.pad(features["conv4"], (0, 1, 0, 1), mode="replicate"), 2, stride=1)
        pools = [i for i, layer in enumerate(theirs) if isinstance(layer, torch.nn.MaxPool2d)]
        for layer in theirs[pools[3] + 1 : pools[4]]:
            is_conv = isinstance(layer, torch.nn.Conv2d)
            x = F.conv2d(x, layer.weight, layer.bias, padding=2, dilation=2) if is_conv else layer(x)
    assert features["conv5"].shape == (1, 512, 6, 5)
    assert torch.allclose(features["conv5"], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (40, 7)])
def test_any_size(size):
    names = ["conv1", "conv2", "conv3", "conv4", "conv5"]
    vgg = DilatedVGG16(3, names, width=0.05)
    features = vgg(torch.randn(2, 3, *size))
    for name, shape in vgg.output_shape().items():
        expected = [-(-length // shape.stride) for length in size]
        assert list(features[name].shape) == [2, shape.channels, *expected]


def test_registered_and_frozen():
    cfg = get_cfg()
    add_config(cfg)
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "build_dilated_vgg16_backbone", 2
    cfg.MODEL.DEVICE = "cpu"
    vgg = build_backbone(cfg)
    assert vgg.output_shape()["conv5"].stride == 8 and vgg.output_shape()["conv5"].channels == 512
    trained_stages = {name.split("_")[0] for name, p in vgg.named_parameters() if p.requires_grad}
    assert trained_stages == {"conv3", "conv4", "conv5"}
    cfg.MODEL.VGG.OUT_FEATURES = ["res5"]
    with pytest.raises(InputError, match="MODEL.VGG.OUT_FEATURES is .'res5'., expected one or more of"):
        build_backbone(cfg)


def test_frozen_stages_keep_their_statistics():
    """Training only changes the statistics of stages that are not frozen. Freezing changes no names and no results."""
    torch.manual_seed(0)
    learning, frozen = (DilatedVGG16(3, ["conv2", "conv3"], "BN", freeze_at, width=0.1) for freeze_at in (0, 2))
    learning.train()(10 * torch.randn(2, 3, 16, 16))  # so that the statistics are not the initial ones
    frozen.load_state_dict(learning.state_dict())
    image = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected, features = learning.eval()(image), frozen.eval()(image)
        for name in expected:
            assert torch.allclose(features[name], expected[name], rtol=1e-5, atol=1e-6)
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    trained = frozen.train()(image)
    assert torch.allclose(trained["conv2"], expected["conv2"], rtol=1e-5, atol=1e-6)
    after = frozen.state_dict()
    changed = {name.split("_")[0] for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"conv3"}
    assert {name.split("_")[0] for name, p in frozen.named_parameters() if p.requires_grad} == {"conv3"}


def test_convert_command(tmp_path, monkeypatch, capsys):
    """The checkpoint has exactly the names of the backbone's parameters."""
    source, output = tmp_path / "tv.pth", tmp_path / "vgg16.pth"
    tool = Path(__file__).resolve().parents[2] / "tools" / "convert_torchvision_vgg.py"
    torch.save(torchvision.models.vgg16(weights=None).features.state_dict(prefix="features."), source)
    monkeypatch.setattr(sys, "argv", ["convert", str(source), str(output)])
    runpy.run_path(str(tool), run_name="__main__")
    assert "26 tensors" in capsys.readouterr().out
    converted = torch.load(output, weights_only=True)["model"]
    assert set(converted) == {f"backbone.{name}" for name in DilatedVGG16(3, ["conv5"]).state_dict()}
    source.write_text("nothing")
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(tool), run_name="__main__")
    assert "tv.pth can't be read" in capsys.readouterr().err


def test_other_weights_are_rejected():
    with pytest.raises(InputError, match="no tensor features.0.weight"):
        from_torchvision({"conv1.weight": torch.zeros(1)})
