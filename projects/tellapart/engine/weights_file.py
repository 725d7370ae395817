"""What a file of weights holds: forms that other tools save, files that hold no weights, and values that are not
finite."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from ..errors import InputError, first_few

logger = logging.getLogger(__name__)
# The entries under which training code saves a model's weights, besides Detectron2's "model".
_ENTRIES = ("model", "state_dict", "model_state_dict")
# What wrappers put before every name: DistributedDataParallel, Lightning and torch.compile.
_PREFIXES = ("module.", "model.", "_orig_mod.")
_MAX_NAMES = 5
_NUM_FIRST_BYTES = 64


def weights_in(path: str, loaded: Any, model_names: Iterable[str]) -> dict[str, Any]:
    """Return the weights in what a checkpoint file holds.

    Args:
        path: the file, for messages.
        loaded: its content: weights by name, or a dict that holds them under "model", "state_dict" or
            "model_state_dict".
        model_names: the names of the parameters and buffers of the model that they are for.

    Returns:
        Weights by name, without the prefixes "module.", "model." and "_orig_mod." where all names have one and the
        model's names have not.

    Raises:
        InputError: there are no weights, or a value is not finite.
    """
    model_names = list(model_names)
    weights, entries = loaded, []
    while isinstance(weights, Mapping):
        entry = next((key for key in _ENTRIES if key in weights), None)
        if entry is None:
            break
        weights = weights[entry]
        entries.append(entry)
    if not isinstance(weights, Mapping):
        raise InputError(
            f"checkpoint {path}: {_place(entries)} is a {type(weights).__name__}, expected a dict of weights"
        )
    weights = {name: value for name, value in weights.items() if name != "_metadata"}
    wrong = [name for name in weights if not isinstance(name, str)]
    if wrong:
        raise InputError(
            f"checkpoint {path}: {_place(entries)} has the names {first_few(map(repr, wrong))}, expected texts"
        )
    tensors = [name for name, value in weights.items() if isinstance(value, (torch.Tensor, np.ndarray, np.generic))]
    if not tensors:
        keys = f"has only {first_few([repr(name) for name in weights])}" if weights else "is empty"
        raise InputError(f"checkpoint {path}: {_place(entries)} {keys}, expected a dict of weights")
    weights = _without_prefixes(path, weights, model_names)
    _check_finite(path, weights)
    return weights


def _place(entries: list[str]) -> str:
    return "its content" if not entries else "its entry " + "".join(f"[{entry!r}]" for entry in entries)


def _without_prefixes(path: str, weights: dict[str, Any], model_names: list[str]) -> dict[str, Any]:
    removed = ""
    while weights:
        prefix = next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in weights)), None)
        if prefix is None or any(name.startswith(prefix) for name in model_names):
            break
        weights = {name[len(prefix) :]: value for name, value in weights.items()}
        removed += prefix
    if removed:
        logger.info("checkpoint %s: read without the prefix %r that all its names have", path, removed)
    return weights


def _check_finite(path: str, weights: dict[str, Any]) -> None:
    not_finite = []
    for name, value in weights.items():
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind == "f":
            value = torch.as_tensor(np.asarray(value))
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            not_finite.append(name)
    if not_finite:
        raise InputError(
            f"checkpoint {path}: {len(not_finite)} of its {len(weights)} tensors have values that are not finite: "
            f"{first_few(not_finite, _MAX_NAMES)}. Its training diverged: use an earlier checkpoint, or train again "
            "with a lower SOLVER.BASE_LR"
        )


def why_unreadable(path: str, error: Exception) -> str:
    """Return one sentence on why ``path``, a local file, is not a checkpoint.

    Args:
        path: the file.
        error: what reading it raised.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(_NUM_FIRST_BYTES).lstrip()
    except OSError as cannot_open:
        return str(cannot_open)
    if not start:
        return "the file is empty: copy or download it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself: run `git lfs pull`"
    if start.lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, not a checkpoint: the download was redirected; download the file itself"
    return str(error).split("\n")[0] or type(error).__name__
