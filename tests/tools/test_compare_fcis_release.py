"""Converted weights compute what the authors' network computes (recorded in MXNet, with random weights)."""

import importlib.util
from pathlib import Path

import tellapart  # noqa: F401

import numpy as np
import pytest
from torch.nn import functional as F

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "compare_fcis_release.py"
spec = importlib.util.spec_from_file_location("compare_fcis_release", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


@pytest.fixture(scope="module")
def expected(shared_data):
    with np.load(shared_data / "fcis_release" / "expected_seed0.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def model(shared_data, tmp_path_factory):
    return script.load_converted(shared_data / "fcis_release", tmp_path_factory.mktemp("release"))


def test_every_stage_of_the_release_is_reproduced(model, expected):
    rows = script.compare(model, expected)
    assert len(rows) == 17
    assert [row for row in rows if not row.passed] == []


def test_detectron2s_own_stem_is_noticed(model, expected, monkeypatch):
    """The comparison can fail: with padded pooling, all features are two pixels off."""
    stem = model.backbone.stem
    monkeypatch.setattr(stem, "forward", lambda x: F.max_pool2d(stem.conv1(x).relu(), 3, 2, padding=1))
    failed = {row.name for row in script.compare(model, expected) if not row.passed}
    assert {"res4, relative", "score maps, relative", "regions, px", "class probabilities"} <= failed
    assert "detections, smallest mask IoU" in failed
