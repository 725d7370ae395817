"""Compare the installed Detectron2 with golden values of the real one, one test per case; see README.md here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from . import cases  # noqa: F401  registers them
from .common import CASES, GOLDEN, Comparison, freeze, golden_path, load_golden, run_case


@pytest.mark.parametrize("name", list(CASES))
def test_golden(name: str) -> None:
    result = Comparison().walk(run_case(name), load_golden(name))
    assert not result.problems, f"{len(result.problems)} differences from the real Detectron2:\n" + "\n".join(
        result.problems[:20]
    )


def test_every_golden_file_has_a_case() -> None:
    expected = {golden_path(n).name for n in CASES} | {"signatures.json", "versions.json"}
    assert {f.name for f in GOLDEN.iterdir()} == expected
    assert sum(f.stat().st_size for f in GOLDEN.iterdir()) < 1.5e6


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.float32([1, 2.001]), "n": 3, "s": "a"},
        {"x": np.float64([1, 2]), "n": 3, "s": "a"},
        {"x": np.float32([[1, 2]]), "n": 3, "s": "a"},
        {"x": np.float32([1, np.nan]), "n": 3, "s": "a"},
        {"x": np.float32([1, 2]), "n": 4, "s": "a"},
        {"x": np.float32([1, 2]), "n": 3.0, "s": "a"},
        {"x": np.float32([1, 2]), "n": 3, "s": "b"},
        {"x": np.float32([1, 2]), "n": 3},
        {"x": np.float32([1, 2]), "n": 3, "s": "a", "more": 1},
    ],
)
def test_comparison_sees_differences(other: dict) -> None:
    expected = json.loads(json.dumps(freeze({"x": torch.tensor([1.0, 2.0]), "n": 3, "s": "a"})))
    same = json.loads(json.dumps(freeze({"x": np.float32([1.00005, 2]), "n": 3, "s": "a"})))
    assert not Comparison().walk(same, expected).problems
    assert Comparison().walk(json.loads(json.dumps(freeze(other))), expected).problems


def test_comparison_of_large_arrays() -> None:
    x = np.random.RandomState(0).standard_normal(1000).astype(np.float32)
    expected = freeze({"x": x, "i": np.arange(1000)})
    assert not Comparison().walk(freeze({"x": x * 1.00001, "i": np.arange(1000)}), expected).problems
    assert Comparison().walk(freeze({"x": x[::-1], "i": np.arange(1000)}), expected).problems
    assert Comparison().walk(freeze({"x": x, "i": np.arange(1000)[::-1]}), expected).problems
