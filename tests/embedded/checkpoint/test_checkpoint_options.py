"""Options at the end of a checkpoint's path."""

import tellapart  # noqa: F401

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn


@pytest.fixture
def model():
    """A model of zeros, with a part that the checkpoint knows under a shorter name."""
    net = nn.ModuleDict({"backbone": nn.ModuleDict({"conv": nn.Linear(2, 2)}), "head": nn.Linear(2, 3)})
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return net


@pytest.fixture
def path(tmp_path):
    weights = {"conv.weight": torch.ones(2, 2), "conv.bias": torch.ones(2), "head.weight": torch.full((3, 2), 2.0)}
    torch.save({"model": weights, "iteration": 7}, tmp_path / "x.pth")
    return str(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("option", "matched"),
    [("", False), ("?matching_heuristics=True", True), ("?matching_heuristics=False", False)],
)
def test_matching_heuristics_in_the_path(option, matched, model, path):
    rest = DetectionCheckpointer(model).load(path + option)
    assert rest["iteration"] == 7 and rest.get("matching_heuristics", False) == matched
    assert model["backbone"]["conv"].weight.sum() == (4 if matched else 0)
    assert model["head"].weight.sum() == 12


def test_option_holds_for_one_load(model, path):
    checkpointer = DetectionCheckpointer(model)
    checkpointer.load(path + "?matching_heuristics=True")
    nn.init.zeros_(model["backbone"]["conv"].weight)
    checkpointer.load(path)
    assert model["backbone"]["conv"].weight.sum() == 0


def test_unknown_option_is_refused(model, path):
    with pytest.raises(ValueError, match="foo"):
        DetectionCheckpointer(model).load(path + "?foo=True")
    with pytest.raises(AssertionError, match="not found"):
        DetectionCheckpointer(model).load("missing.pth?matching_heuristics=True")
    assert model["head"].weight.sum() == 0
