"""Trained models by name: those that come with the package, and the run folders in ``$TELLAPART_CACHE/models``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..errors import InputError, did_you_mean
from ..files import cache_dir

# Before a name, where a path or an address of weights is expected: MODEL.WEIGHTS tellapart://nuclei_fcis.
PREFIX = "tellapart://"
_PACKAGED = Path(__file__).resolve().parent / "weights"
_INDEX = _PACKAGED / "index.json"


def list_models() -> list[str]:
    """Return the names of all trained models, sorted."""
    return sorted({*_index(), *(path.name for path in _cached())})


def get_model_folder(name: str) -> Path:
    """Return the folder of a trained model: its config, weights and facts, as in the ``OUTPUT_DIR`` of a training.

    Args:
        name: such as "nuclei_fcis" or "tellapart://nuclei_fcis". A folder in ``$TELLAPART_CACHE/models`` takes
            precedence over a model of the package.

    Raises:
        InputError: there is no such model, or a file of the package's is damaged.
    """
    name = name.removeprefix(PREFIX)
    for path in _cached():
        if path.name == name:
            return path
    index = _index()
    if name not in index:
        known = list_models()
        hint = did_you_mean(name, known) or f"; there are {', '.join(known) or 'none'}"
        raise InputError(
            f"no trained model is named {name}{hint}. Use a run folder, or copy one to {cache_dir() / 'models' / name}"
        )
    for file, expected in index[name]["sha256"].items():
        path = _PACKAGED / name / file
        found = sha256(path) if path.is_file() else "no such file"
        if found != expected:
            raise InputError(f"{path} is damaged (SHA-256 {found}, expected {expected}): install tellapart again")
    return _PACKAGED / name


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _index() -> dict[str, dict[str, Any]]:
    return json.loads(_INDEX.read_text(encoding="utf-8")) if _INDEX.is_file() else {}


def _cached() -> list[Path]:
    root = cache_dir() / "models"
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
