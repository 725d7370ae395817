"""Trained models by name: packing, checksums, tellapart:// as weights, run folders in the cache."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tellapart import InputError, Predictor, model_zoo
from tellapart.engine.checkpoint import Checkpointer, check_exists
from tellapart.engine.model_info import ModelInfo
from tellapart.inference.run_folder import find_model
from tellapart.model_zoo import models

import numpy as np
import pytest
import small_models
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from synthetic_images import nuclei

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import pack_model  # noqa: E402

PACKAGED = [name for name in model_zoo.list_models() if (models._PACKAGED / name).is_dir()]
FACTS = {"license": "CC0", "data": "squares", "config": "quick/fcis/fcis_R_18_shapes.yaml"}


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A model zoo in a temporary folder with one model, "squares", and the network that it was packed from."""
    cfg = small_models.fcis()
    cfg.MODEL.DEVICE = "cpu"
    network, run = build_model(cfg), tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(cfg.dump())
    torch.save({"model": network.state_dict(), "iteration": 3}, run / "model_best.pth")
    ModelInfo(["square"] * 80, score_threshold=0.25, weights="model_best.pth", datasets={"a": ["/b", "/c"]}).write(run)
    root = tmp_path / "models"
    monkeypatch.setattr(models, "_PACKAGED", root)
    monkeypatch.setattr(models, "_INDEX", root / "index.json")
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    pack_model.pack(str(run), "squares", FACTS, root)
    return root, network


def test_packed_model(zoo):
    root, network = zoo
    assert model_zoo.list_models() == ["squares"]
    for name in ("squares", "tellapart://squares"):
        cfg, info = find_model(name)
        assert str(root / "squares" / "model.pth") == cfg.MODEL.WEIGHTS
        assert (info.score_threshold, info.datasets, info.weights) == (0.25, {}, "model.pth")
    saved = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"]
    state = network.state_dict()
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name], state[name].half()) for name in saved if state[name].is_floating_point())
    assert str(root.parent) not in (root / "squares" / "config.yaml").read_text()


@pytest.mark.parametrize("checkpointer", [Checkpointer, DetectionCheckpointer])
def test_as_weights(zoo, checkpointer):
    """MODEL.WEIGHTS tellapart://squares works wherever Detectron2 takes weights; they become float32."""
    _, network = zoo
    other = build_model(small_models.fcis())
    checkpointer(other).resume_or_load("tellapart://squares", resume=False)
    state = network.state_dict()
    for name, tensor in other.state_dict().items():
        assert tensor.dtype == state[name].dtype
        expected = state[name].half().to(tensor.dtype) if tensor.is_floating_point() else state[name]
        assert torch.equal(tensor, expected), name


def test_config_with_weights_of_the_zoo(zoo, tmp_path):
    config = tmp_path / "own.yaml"
    config.write_text((zoo[0] / "squares" / "config.yaml").read_text())
    cfg, info = find_model(str(config))
    assert cfg.MODEL.WEIGHTS.endswith("squares/model.pth") and info.score_threshold == 0.25


def test_errors(zoo):
    root, _ = zoo
    for load in (check_exists, model_zoo.get_model_folder):
        with pytest.raises(InputError, match="no trained model is named square; did you mean squares"):
            load("tellapart://square")
    with pytest.raises(InputError, match="no trained model is named xyz; there are squares"):
        find_model("xyz")
    (root / "squares" / "model.pth").write_bytes(b"cut off")
    with pytest.raises(InputError, match="model.pth is damaged .SHA-256 .*: install tellapart again"):
        check_exists("tellapart://squares")


def test_cache_takes_precedence(zoo, tmp_path):
    folder = tmp_path / "cache" / "models" / "squares"
    folder.mkdir(parents=True)
    assert model_zoo.get_model_folder("squares") == folder
    (tmp_path / "cache" / "models" / "mine").mkdir()
    assert model_zoo.list_models() == ["mine", "squares"]


def test_weights_that_float16_cannot_hold(zoo, tmp_path):
    path = tmp_path / "run" / "model_best.pth"
    state = torch.load(path, weights_only=True)
    next(iter(state["model"].values())).fill_(1e6)
    torch.save(state, path)
    with pytest.raises(InputError, match="does not fit into float16"):
        pack_model.pack(str(tmp_path / "run"), "other", FACTS, zoo[0])
    assert json.loads((zoo[0] / "index.json").read_text()).keys() == {"squares"}


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_models_find_objects(name):
    """They load, find the objects of a simple image, and are documented. The synthetic one finds parts of them too."""
    predictor = Predictor.from_zoo(name, device="cpu")
    image, objects = nuclei(1)
    found = predictor(image)
    masks = np.asarray(found.pred_masks).reshape(len(found), -1).astype(float)
    truth = objects.reshape(len(objects), -1).astype(float)
    common = masks @ truth.T
    iou = common / (masks.sum(1)[:, None] + truth.sum(1) - common)
    assert (iou.max(0) > 0.5).mean() > 0.8
    if name.startswith("nuclei"):
        assert abs(len(found) - len(objects)) <= 0.1 * len(objects)
    folder = model_zoo.get_model_folder(name)
    assert (folder / "model.pth").stat().st_size < 12 * 2**20
    facts = json.loads(models._INDEX.read_text())[name]
    assert Path(model_zoo.get_config_file(facts["config"])).is_file()
    card = (ROOT / "docs" / "models.md").read_text()
    assert f"`{name}`" in card and facts["license"] in card
    assert "/" not in json.dumps(ModelInfo.read(folder).datasets)
