"""Pickles of weights are checked before they are loaded."""

from __future__ import annotations

import collections
import os
import pickle

import tellapart  # noqa: F401
from tellapart.engine.safe_pickle import check_pickle

import numpy as np
import pytest
import torch

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3), np.asfortranarray(np.ones((3, 4))), np.array(5),
    np.array([True, False]), np.arange(3, dtype=">i2"), np.float64(3.5), np.int64(7), np.array(["a", "bc"]),
    np.zeros((2, 2), np.float16), np.array([1 + 2j]),
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{np.shape(array)}")
def test_arrays_in_plain_containers_pass(tmp_path, array, protocol):
    content = {"model": collections.OrderedDict(w=array), "rest": [1, 2.5, None, "x", b"y", (True,)]}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol))
    check_pickle(str(tmp_path / "w.pkl"))


class RunsCode:
    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (RunsCode(), "system"),
        (np.array([{}], dtype=object), "'O8'"),
        (np.zeros(2, dtype=[("a", int)]), "V8|fields"),
        (torch.zeros(2), "torch"),
        (print, "print"),
    ],
)
def test_everything_else_is_refused(tmp_path, value, message):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": value}))
    with pytest.raises(pickle.UnpicklingError, match=message):
        check_pickle(str(tmp_path / "w.pkl"))


def test_arrays_without_enough_data_are_refused(tmp_path):
    data = pickle.dumps(np.arange(100, dtype=np.float32), protocol=2)
    (tmp_path / "w.pkl").write_bytes(data.replace(b"Kd\x85", b"K\xff\x85"))  # a shape of 255 instead of 100
    with pytest.raises(pickle.UnpicklingError, match=r"shape \(255,\) with 400 bytes"):
        check_pickle(str(tmp_path / "w.pkl"))
