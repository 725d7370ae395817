"""Check that a pickle of weights has numpy arrays in plain containers only, before it is loaded.

A pickle can run any code, and a broken one can make numpy read outside of its memory. Here the classes of numpy are
replaced by stand-ins that only compare numbers: no code of the file runs, and no array is built.
"""

from __future__ import annotations

import collections
import math
import pickle
import re
from typing import Any

_PLAIN_DTYPE = re.compile(r"[<>|=]?(\?|[biufcSUV]\d+)")


class _DType:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not _PLAIN_DTYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"it has an array of type {name!r}, expected plain numbers")
        digits = re.sub(r"\D", "", name)
        self.num_bytes = int(digits or 1) * (4 if "U" in name else 1)

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, item size, alignment, flags)
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("it has an array with fields, expected plain numbers")
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it has an array with the byte order {state[1]!r}")
        if len(state) >= 6 and state[5] not in (-1, self.num_bytes):
            raise pickle.UnpicklingError(
                f"it has an array with elements of {state[5]} bytes, expected {self.num_bytes}"
            )


class _Array:
    """Stands in for ``numpy.ndarray``."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("it has an array without shape, type and data")
        _check_array(state[1], state[2], state[4])


def _check_array(shape: Any, dtype: Any, data: Any) -> None:
    shape = (shape,) if isinstance(shape, int) else shape
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise pickle.UnpicklingError(f"it has an array of shape {shape!r}")
    if not isinstance(dtype, _DType):
        raise pickle.UnpicklingError(f"it has an array of type {dtype!r}, expected plain numbers")
    data = data.encode("latin1") if isinstance(data, str) else data  # written by Python 2
    if not isinstance(data, (bytes, bytearray)) or len(data) != math.prod(shape) * dtype.num_bytes:
        found = f"{len(data)} bytes" if isinstance(data, (bytes, bytearray)) else type(data).__name__
        raise pickle.UnpicklingError(f"it has an array of shape {shape} with {found} of data")


def _reconstruct(cls: Any, shape: Any, typecode: Any) -> _Array:
    if cls is not _Array or shape not in ((0,), 0, (1,)) or typecode not in (b"b", "b", "f"):
        raise pickle.UnpicklingError("it builds an array in an unknown way")
    return _Array()


def _scalar(dtype: Any, data: Any) -> float:
    _check_array((), dtype, data)
    return 0.0


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> _Array:
    if order not in ("C", "F"):
        raise pickle.UnpicklingError(f"it has an array with the order {order!r}")
    _check_array(shape, dtype, data)
    return _Array()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "ascii"):
        raise pickle.UnpicklingError("it encodes text in an unknown way")
    return text.encode(encoding)


_STAND_INS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
}
for _core in ("core", "_core"):
    _STAND_INS[f"numpy.{_core}.multiarray", "_reconstruct"] = _reconstruct
    _STAND_INS[f"numpy.{_core}.multiarray", "scalar"] = _scalar
    _STAND_INS[f"numpy.{_core}.numeric", "_frombuffer"] = _frombuffer


class _CheckingUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(
                f"it holds {module}.{name}, which may run code; expected only numpy arrays in plain containers"
            )
        return _STAND_INS[module, name]


def check_pickle(path: str) -> None:
    """Check that a pickle holds numpy arrays, numbers and texts in dicts, lists and tuples, and nothing else.

    Args:
        path: a ``.pkl`` file of Detectron2's model zoo or of Caffe2.

    Raises:
        Exception: it does not, or is broken; the types are those of ``pickle.load``.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        _CheckingUnpickler(file, encoding="latin1").load()
