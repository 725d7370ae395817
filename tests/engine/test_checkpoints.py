"""Weights in the forms that other tools save, files that hold none, and runs resumed with other settings."""

from __future__ import annotations

import pickle

from tellapart import InputError
from tellapart.engine.checkpoint import Checkpointer
from tellapart.engine.input_channels import adapt_first_convolution
from tellapart.engine.resume_checks import check_resumed_optimizer
from tellapart.engine.weights_file import weights_in

import numpy as np
import pytest
import torch
from torch import nn

NAMES = ("weight", "bias")
WEIGHTS = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}


def prefixed(prefix: str) -> dict:
    return {prefix + name: value for name, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"model": WEIGHTS},
        {"state_dict": WEIGHTS, "epoch": 3},
        {"model": {"state_dict": WEIGHTS}},
        {"model_state_dict": WEIGHTS},
        prefixed("module."),
        {"state_dict": prefixed("model.")},
        prefixed("module.model."),
        prefixed("_orig_mod."),
        {name: value.numpy() for name, value in WEIGHTS.items()},
    ],
)
def test_forms_of_weights(content):
    weights = weights_in("w.pth", content, NAMES)
    assert set(weights) == set(NAMES)
    assert torch.equal(torch.as_tensor(weights["weight"]), WEIGHTS["weight"])


def test_prefix_that_the_model_has_stays():
    weights = prefixed("model.")
    assert set(weights_in("w.pth", weights, ["model.weight", "model.bias"])) == set(weights)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": None}, r"its entry \['model'\] is a NoneType"),
        ({"model": {}}, r"its entry \['model'\] is empty"),
        ({"epoch": 3}, "its content has only 'epoch'"),
        ({"model": {1: torch.zeros(2)}}, "has the names 1"),
        ({"model": {**WEIGHTS, "bias": torch.tensor([1.0, float("nan")])}}, "1 of its 2 tensors .* finite: bias"),
        ({"weight": np.array([np.inf], np.float32), "bias": np.zeros(2)}, "finite: weight"),
    ],
)
def test_no_weights(content, message):
    with pytest.raises(InputError, match=message):
        weights_in("w.pth", content, NAMES)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", b"", "is empty"),
        ("w.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        ("w.pth", b"<!DOCTYPE html><html>Sign in</html>", "web page"),
        ("w.pkl", b"\n<html>Sign in</html>", "web page"),
        ("w.pth", b"PK\x03\x04" + bytes(100), "cannot be read"),
        ("w.pth", bytes(range(256)), "cannot be read"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        Checkpointer(nn.Linear(3, 2)).resume_or_load(str(tmp_path / name), resume=False)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("name", ["w.pth", "w.pkl", "w.pth?matching_heuristics=True"])
def test_checkpoints_are_loaded(tmp_path, name):
    path = tmp_path / name.partition("?")[0]
    if path.suffix == ".pkl":
        arrays = {key: value.numpy() for key, value in WEIGHTS.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "me"}))
    else:
        torch.save({"state_dict": WEIGHTS}, path)
    model = nn.Linear(3, 2)
    Checkpointer(model).resume_or_load(str(tmp_path / name), resume=False, must_fit=True)
    assert torch.equal(model.weight, WEIGHTS["weight"])


def test_weights_are_needed():
    with pytest.raises(InputError, match="MODEL.WEIGHTS is ''"):
        Checkpointer(nn.Linear(3, 2)).resume_or_load("", resume=False, must_fit=True)


def optimizer_state(kind: str = "SGD", sizes: tuple[int, ...] = (1, 1), lr: float = 0.1) -> dict:
    entry = {"betas": (0.9, 0.999)} if kind == "ADAMW" else {"momentum": 0.9}
    return {"param_groups": [{"params": list(range(size)), "initial_lr": lr, **entry} for size in sizes]}


@pytest.mark.parametrize(
    ("current", "message"),
    [
        (optimizer_state("ADAMW"), "trained with SGD, and SOLVER.OPTIMIZER is ADAMW"),
        (optimizer_state(sizes=(1, 2)), "2 parameters were trained, and this config trains 3.*FREEZE_AT"),
        (optimizer_state(sizes=(2,)), "in 2 groups .* makes 1 other.*SOLVER.LR_FACTORS"),
    ],
)
def test_optimizers_that_cannot_resume(current, message):
    with pytest.raises(InputError, match=message):
        check_resumed_optimizer("m.pth", optimizer_state(), current)


def test_changed_learning_rate_is_said(caplog):
    check_resumed_optimizer("m.pth", optimizer_state(), optimizer_state())
    assert not caplog.records
    check_resumed_optimizer("m.pth", optimizer_state(), optimizer_state(lr=0.05))
    (record,) = caplog.records
    assert "0.05 in the config, 0.1 in the checkpoint (SOLVER.BASE_LR" in record.getMessage()


def gray_ramp() -> torch.Tensor:
    return torch.arange(25.0).view(1, 1, 5, 5)


@pytest.mark.parametrize("num_channels", [1, 2, 4, 5])
@pytest.mark.parametrize("form", ["tensor", "array"])
def test_first_convolution_is_adapted(num_channels, form, caplog):
    """A gray image in all channels has the same responses as with 3 channels, if the colors' weights are equal."""
    torch.manual_seed(0)
    colors, other = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
    with torch.no_grad():
        colors.weight[:] = colors.weight[:, :1]
    weights = {"0.weight": colors.weight.detach(), "0.bias": colors.bias.detach(), "1.weight": other.weight.detach()}
    if form == "array":
        weights = {name: value.numpy() for name, value in weights.items()}
    model = nn.Sequential(nn.Conv2d(num_channels, 4, 3), nn.Conv2d(4, 4, 3))
    with caplog.at_level("INFO"):
        adapted = adapt_first_convolution("w.pth", weights, model)
    assert f"0.weight is adapted from 3 to {num_channels} channels" in caplog.text
    assert type(adapted["0.weight"]) is type(weights["0.weight"]) and adapted["1.weight"] is weights["1.weight"]
    response = torch.conv2d(gray_ramp().repeat(1, num_channels, 1, 1), torch.as_tensor(adapted["0.weight"]))
    expected = torch.conv2d(gray_ramp().repeat(1, 3, 1, 1), colors.weight)
    torch.testing.assert_close(response, expected)


def test_first_convolution_is_adapted_only_for_training(tmp_path):
    torch.save({"weight": torch.rand(4, 3, 1, 1), "bias": torch.zeros(4)}, tmp_path / "w.pth")
    model = nn.Conv2d(2, 4, 1)
    Checkpointer(model).resume_or_load(str(tmp_path / "w.pth"), resume=False)
    loaded = torch.load(tmp_path / "w.pth", weights_only=True)["weight"]
    torch.testing.assert_close(model.weight, loaded[:, :2] * 1.5)
    with pytest.raises(InputError, match=r"weight is \(4, 3, 1, 1\), expected \(4, 2, 1, 1\)"):
        Checkpointer(model).resume_or_load(str(tmp_path / "w.pth"), resume=False, must_fit=True)
