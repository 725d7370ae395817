"""tools/crowding.py: which instances the pixels of a box belong to."""

from __future__ import annotations

import runpy
from pathlib import Path

import tellapart  # noqa: F401

import numpy as np
import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "crowding.py"


def test_shares_equal_a_loop_over_pixels():
    generator = np.random.default_rng(0)
    masks = generator.random((5, 9, 11)) > 0.8
    masks[3] = False  # says nothing
    expected = []
    for k in (0, 1, 2, 4):
        pixels = np.argwhere(masks[k])
        (top, left), (bottom, right) = pixels.min(0), pixels.max(0)
        inside = [(y, x) for y in range(top, bottom + 1) for x in range(left, right + 1) if masks[:, y, x].any()]
        expected.append(sum(not masks[k, y, x] for y, x in inside) / len(inside))
    fractions = runpy.run_path(str(TOOL))["other_instance_fractions"](masks)
    assert fractions == pytest.approx(expected) and min(fractions) > 0


def test_overlapping_instances_both_have_their_pixels():
    masks = np.zeros((2, 4, 8), bool)
    masks[0, :, :6] = masks[1, :, 4:] = True  # columns 4 and 5 are both's
    assert runpy.run_path(str(TOOL))["other_instance_fractions"](masks) == [0.0, 0.0]


def test_table(run_tool):
    head, _, row = run_tool("crowding.py", "dots_val").splitlines()
    assert head == "| data set | instances | mean | median | 90th percentile |"
    assert row.startswith("| dots_val | ") and row.endswith("| 0.0 % | 0.0 % | 0.0 % |")  # no two in one box


def test_unknown_data_set_is_named(run_tool):
    assert "nothing_val" in run_tool("crowding.py", "nothing_val")
