"""The ResNet of the FCIS release: the pooling of its stem, and all names of Detectron2's ResNet."""

import tellapart  # noqa: F401
from tellapart.backbones import build_fcis_release_resnet_backbone

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.MODEL.RESNETS.update(OUT_FEATURES=["stem", "res4", "res5"], STEM_OUT_CHANNELS=4, WIDTH_PER_GROUP=4)
    cfg.MODEL.RESNETS.update(RES2_OUT_CHANNELS=16, RES5_DILATION=2)
    return cfg


def test_only_the_pooling_of_the_stem_differs(cfg):
    torch.manual_seed(0)
    usual = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    release = build_fcis_release_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    release.load_state_dict(usual.state_dict())
    trained = [name for name, p in usual.named_parameters() if p.requires_grad]
    assert [name for name, p in release.named_parameters() if p.requires_grad] == trained
    assert release.output_shape() == usual.output_shape()
    image = torch.randn(2, 3, 64, 96)
    theirs, ours = usual(image), release(image)
    assert {name: f.shape for name, f in ours.items()} == {name: f.shape for name, f in theirs.items()}
    # one pixel of conv1 up and left is two pixels of the image
    conv1 = usual.stem.conv1(image).relu()
    for y, x in ((0, 0), (3, 5), (15, 23)):
        window = conv1[:, :, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3]
        torch.testing.assert_close(ours["stem"][:, :, y, x], window.amax((2, 3)), rtol=0, atol=0)
    assert not torch.allclose(ours["res5"], theirs["res5"])


@pytest.mark.parametrize(("size", "expected"), [(64, 16), (65, 16), (66, 16), (67, 17), (68, 17), (7, 2)])
def test_sizes(cfg, size, expected):
    backbone = build_fcis_release_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    assert backbone(torch.zeros(1, 3, size, size))["stem"].shape[2:] == (expected, expected)
