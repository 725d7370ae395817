"""tools/benchmark.py models: all models run, and the figures fit together."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import benchmark_models


def test_quick_models(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark_models, "_reset_peak", lambda device: None)  # needs a right that CI may not have
    arguments = ["--set", "quick", "--rounds", "1", "--train", "--size", "96", "128", "--json"]
    benchmark_models.main([*arguments, str(tmp_path / "out.json")])
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["models"].keys() == benchmark_models.MODELS["quick"].keys()
    for values in results["models"].values():
        assert 20 <= values["detections"] <= 100 and values["training step"] > 0
        parts = [value for name, value in values["stages"].items() if "." not in name]
        assert sum(parts) == pytest.approx(values["inference"], rel=1e-6) and min(parts) >= 0
    first, second = "SemiConv R-18-FPN", "Mask R-CNN R-18-FPN"
    expected = results["models"][first]["inference"] / results["models"][second]["inference"]
    assert results["ratios"][f"{first} / {second}, inference"] == pytest.approx(expected)
    assert capsys.readouterr().out.splitlines()[-1].startswith("SemiConv R-18-FPN, image masks / Mask R-CNN R-18-FPN")


def test_full_configs_exist():
    for name, config in benchmark_models.MODELS["full"].items():
        cfg = benchmark_models.config_of(name, config, "cpu")
        assert cfg.MODEL.WEIGHTS == "" and f"R-{cfg.MODEL.RESNETS.DEPTH}" in name
