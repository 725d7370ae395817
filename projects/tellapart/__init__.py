"""Tellapart: position-aware instance segmentation for Detectron2.

``import tellapart`` registers its parts in Detectron2's registries and catalogs; ``tellapart.add_config(cfg)`` adds its
keys to a Detectron2 config. An installed ``detectron2`` is always the one used; where there is none, the embedded one
beside this package is put on the path.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path


def _ensure_detectron2() -> None:
    """Put the embedded detectron2 on the path if no other can be imported; say so in one log line."""
    if importlib.util.find_spec("detectron2") is not None:
        return
    embedded = Path(__file__).resolve().parent.parent / "embedded_detectron2"
    # last on the path: one that gets installed later wins
    sys.path.append(str(embedded))
    logging.getLogger(__name__).warning("detectron2 is not installed: using the embedded one in %s", embedded)


_ensure_detectron2()

from . import backbones, coloring, data, fcis, instance_fcn, semiconv  # noqa: E402, F401  (registers data sets and models)
from .config import add_config  # noqa: E402
from .errors import InputError  # noqa: E402

__all__ = ["InputError", "add_config"]
__version__ = "0.1.0"
