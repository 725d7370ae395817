"""Checkpoints: saving, loading, and messages about parameters that do not match."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
from helpers_engine import Toy, logged, small_resnet
from torch import nn


def plain(text):
    return re.sub(r"\x1b\[\d+m", "", text)


def messages(records, level=None):
    return [plain(m) for lv, m in records if level in (None, lv)]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_save_and_load(tmp_path):
    model = Toy(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sum(model(torch.ones(2, 2)).values()).backward()
    optimizer.step()
    saver = DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer)
    assert not saver.has_checkpoint()
    saver.save("model_0000007", iteration=7, extra=[1, "a"])
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000007.pth"
    assert saver.get_checkpoint_file() == str(tmp_path / "model_0000007.pth")
    content = torch.load(tmp_path / "model_0000007.pth", weights_only=True)
    assert list(content) == ["model", "optimizer", "iteration", "extra"]

    other = Toy(2)
    again = torch.optim.SGD(other.parameters(), lr=0.5)
    rest = DetectionCheckpointer(other, str(tmp_path), optimizer=again).resume_or_load("ignored.pth", resume=True)
    assert rest == {"iteration": 7, "extra": [1, "a"]}
    assert same(other.state_dict(), model.state_dict())
    assert again.param_groups[0]["lr"] == 0.1
    momentum = [o.state[m.fc.weight]["momentum_buffer"] for o, m in ((optimizer, model), (again, other))]
    assert torch.equal(*momentum)


def test_load_without_resume_loads_only_the_model(tmp_path):
    model = Toy(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer).save("a", iteration=3)
    other = Toy(2)
    again = torch.optim.SGD(other.parameters(), lr=0.5)
    loader = DetectionCheckpointer(other, str(tmp_path), optimizer=again)
    loader.resume_or_load(str(tmp_path / "a.pth"), resume=False)
    assert same(other.state_dict(), model.state_dict())
    assert again.param_groups[0]["lr"] == 0.5
    assert loader.resume_or_load("", resume=False) == {}


def test_missing_file(tmp_path):
    with pytest.raises(AssertionError, match="nothing.pth"):
        DetectionCheckpointer(Toy()).load(str(tmp_path / "nothing.pth"))


def test_bare_state_dict_and_data_parallel_names(tmp_path):
    model = Toy(1)
    torch.save({"module." + k: v for k, v in model.state_dict().items()}, tmp_path / "a.pth")
    other = Toy(2)
    DetectionCheckpointer(other).load(str(tmp_path / "a.pth"))
    assert same(other.state_dict(), model.state_dict())


def test_mismatches_are_logged(tmp_path):
    model = Toy(1)
    model.extra = nn.Linear(1, 1)
    weights = {"fc.weight": torch.ones(5, 2), "fc.bias": torch.full((1,), 3.0), "old.weight": torch.ones(1)}
    torch.save({"model": weights}, tmp_path / "a.pth")
    before = model.fc.weight.detach().clone()
    with logged() as records:
        DetectionCheckpointer(model).load(str(tmp_path / "a.pth"))
    assert torch.equal(model.fc.weight, before)
    assert model.fc.bias.item() == 3.0
    warnings = messages(records, "WARNING")
    assert len(warnings) == 3
    assert "'fc.weight'" in warnings[0] and "(5, 2) in the checkpoint but (1, 2) in the model" in warnings[0]
    assert "not found in the checkpoint:\nextra.{bias, weight}\nfc.weight" in warnings[1]
    assert "not used by the model:\n  old.weight" in warnings[2]


def test_periodic_checkpointer(tmp_path):
    periodic = PeriodicCheckpointer(DetectionCheckpointer(Toy(), str(tmp_path)), 3, max_iter=10, max_to_keep=2)
    for i in range(10):
        periodic.step(i)
    kept = sorted(p.stem for p in tmp_path.glob("*.pth"))
    assert kept == ["model_0000005", "model_0000008", "model_final"]
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 9


class Detector(nn.Module):
    """A model of a ResNet with a prefix, a head, and constant buffers."""

    def __init__(self, prefix="backbone", **options):
        super().__init__()
        for name in prefix.split(".")[:-1]:
            self.add_module(name, nn.Module())
        parent = self.get_submodule(".".join(prefix.split(".")[:-1]))
        parent.add_module(prefix.split(".")[-1], small_resnet(**options))
        self.head = nn.Linear(2, 3)
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1))
        self.register_buffer("pixel_std", torch.ones(3, 1, 1))


def caffe2_names(names):
    """Return the Caffe2 names of a ResNet's parameters by their names here."""
    parts = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    out = {}
    for name in names:
        *layer, last = name.split(".")
        norm = layer[-1] == "norm"
        if norm:
            layer = layer[:-1]
        base = "conv1" if layer[0] == "stem" else f"{layer[0]}_{layer[1]}_{parts[layer[2]]}"
        if norm and base == "conv1":
            base = "res_conv1"
        kind = {("weight", True): "_bn_s", ("bias", True): "_bn_b", ("weight", False): "_w"}.get((last, norm))
        if kind:
            out[name] = base + kind
    return out


@pytest.mark.parametrize("prefix", ["backbone", "backbone.bottom_up"])
def test_caffe2_backbone(tmp_path, prefix):
    model = Detector(prefix)
    resnet = model.get_submodule(prefix)
    names = caffe2_names(resnet.state_dict())
    assert "res2_0_branch2a_bn_s" in names.values() and "res_conv1_bn_b" in names.values()
    rng = np.random.default_rng(0)
    blobs = {c: rng.normal(size=resnet.state_dict()[n].shape).astype(np.float32) for n, c in names.items()}
    extra = {"fc1000_w": np.zeros((3, 4), np.float32), "conv1_w_momentum": np.zeros(3, np.float32)}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": {**blobs, **extra}}, protocol=2))
    for name, buffer in resnet.named_buffers():
        buffer.fill_(5.0 if "running" in name else 0.0)
    with logged() as records:
        DetectionCheckpointer(model).load(str(tmp_path / "R-50.pkl"))
    for name, blob in names.items():
        assert torch.equal(resnet.state_dict()[name], torch.from_numpy(blobs[blob])), name
    for name, value in resnet.state_dict().items():  # these files merge the statistics into weight and bias
        if name.endswith("running_mean"):
            assert (value == 0).all()
        if name.endswith("running_var"):
            assert torch.allclose(value, torch.ones(()), atol=1e-4)
    warnings = messages(records, "WARNING")
    assert [w.split("\n", 1)[1].strip() for w in warnings] == ["head.{bias, weight}", "fc1000.weight"]


def test_model_zoo_pickle(tmp_path):
    model = Detector(norm="BN")
    weights = {k: np.asarray(v + 1) for k, v in model.state_dict().items()}
    content = {"model": weights, "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content))
    with logged() as records:
        DetectionCheckpointer(model).load(str(tmp_path / "model.pkl"))
    assert all(np.array_equal(v.numpy(), weights[k]) for k, v in model.state_dict().items())
    assert not messages(records, "WARNING")
    assert "Reading a file from 'Detectron2 Model Zoo'" in messages(records)


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_matching_heuristics(tmp_path, suffix):
    model = Detector("backbone.bottom_up", norm="BN")
    resnet = model.backbone.bottom_up
    weights = {k: v + 1 for k, v in resnet.state_dict().items()}
    # This name is a suffix of another one. The longer name must match.
    weights["conv1.weight"] = torch.zeros(1)
    path = tmp_path / f"a.{suffix}"
    if suffix == "pth":
        torch.save({"model": weights, "matching_heuristics": True}, path)
    else:
        arrays = {k: v.numpy() for k, v in weights.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "matching_heuristics": True, "__author__": "me"}))
    DetectionCheckpointer(model).load(str(path))
    del weights["conv1.weight"]
    assert same(resnet.state_dict(), weights)


def test_matching_heuristics_other_shape(tmp_path):
    model = Detector(norm="BN")
    weights = {k: v + 1 for k, v in model.backbone.state_dict().items()}
    weights["stem.conv1.weight"] = torch.zeros(4, 3, 5, 5)
    torch.save({"model": weights, "matching_heuristics": True}, tmp_path / "a.pth")
    before = model.backbone.stem.conv1.weight.detach().clone()
    with logged() as records:
        DetectionCheckpointer(model).load(str(tmp_path / "a.pth"))
    assert torch.equal(model.backbone.stem.conv1.weight, before)
    assert torch.equal(model.backbone.stem.conv1.norm.weight, weights["stem.conv1.norm.weight"])
    text = "\n".join(messages(records, "WARNING"))
    assert "Shape of stem.conv1.weight in checkpoint is" in text
    assert "while shape of backbone.stem.conv1.weight in model is" in text
