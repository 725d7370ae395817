"""Features of the embedded checkpointer only: torchvision's names, and pickle files can't run code."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from helpers_engine import EMBEDDED, Toy, logged
from torch import nn

pytestmark = pytest.mark.skipif(not EMBEDDED, reason="the real Detectron2 converts torchvision weights beforehand")


@pytest.mark.parametrize(("depth", "prefix"), [(18, "backbone"), (50, "backbone.bottom_up")])
def test_torchvision_resnet(tmp_path, depth, prefix):
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone

    cfg = get_cfg()
    node = cfg.MODEL.RESNETS
    node.DEPTH, node.NORM, node.OUT_FEATURES, node.STRIDE_IN_1X1 = depth, "FrozenBN", ["res5"], False
    node.RES2_OUT_CHANNELS = 64 if depth == 18 else 256
    resnet = build_backbone(cfg)
    model = nn.Module()
    model.backbone = nn.ModuleDict({"bottom_up": resnet}) if "." in prefix else resnet

    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    for name, buffer in theirs.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    with logged() as records:
        DetectionCheckpointer(model).load(str(tmp_path / "resnet.pth"))
    assert not [m for level, m in records if "not found" in m]
    image = torch.randn(1, 3, 64, 64)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    expected = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(x))))
    torch.testing.assert_close(resnet.eval()(image)["res5"], expected, rtol=1e-4, atol=1e-4)


class Evil:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('evil').touch()",))


@pytest.mark.parametrize("name", ["a.pkl", "a.pth"])
def test_files_cannot_run_code(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content = {"model": {"fc.weight": torch.zeros(1, 2), "x": Evil()}, "__author__": "me"}
    if name.endswith("pkl"):
        content["model"]["fc.weight"] = np.zeros((1, 2), np.float32)
        (tmp_path / name).write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / name)
    with pytest.raises(pickle.UnpicklingError, match=f"{name}.*exec"):
        DetectionCheckpointer(Toy()).load(name)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_arrays_of_every_protocol(tmp_path, protocol):
    weights = {"fc.weight": np.float32([[1, 2]]), "fc.bias": np.float32([3])}
    content = pickle.dumps({"model": weights, "__author__": "me", "scalar": np.float64(2)}, protocol=protocol)
    (tmp_path / "a.pkl").write_bytes(content)
    model = Toy()
    assert DetectionCheckpointer(model).load(str(tmp_path / "a.pkl"))["scalar"] == 2
    assert model.fc.weight.tolist() == [[1, 2]] and model.fc.bias.item() == 3


@pytest.mark.parametrize("name", ["a.pkl", "a.pth"])
@pytest.mark.parametrize("content", [b"abc", b"", pickle.dumps([1], protocol=2), None])
def test_errors_name_the_broken_file(tmp_path, name, content):
    if content is None:  # a truncated file
        torch.save(Toy().state_dict(), tmp_path / "whole")
        whole = (tmp_path / "whole").read_bytes()
        content = whole[: len(whole) // 2]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(pickle.UnpicklingError, match=name):
        DetectionCheckpointer(Toy()).load(str(tmp_path / name))
