"""Tellapart: position-aware instance segmentation for Detectron2.

``import tellapart`` registers the models in Detectron2's registries and the data sets in its catalogs.
``tellapart.add_config(cfg)`` adds Tellapart's keys to a Detectron2 config. If ``detectron2`` is installed, it is used.
Otherwise the embedded replacement beside this package is added to ``sys.path``.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import warnings
from pathlib import Path


def _ensure_detectron2() -> None:
    """Add the embedded detectron2 to ``sys.path`` if no other one can be imported, and log that."""
    if importlib.util.find_spec("detectron2") is not None:
        return
    embedded = Path(__file__).resolve().parent.parent / "embedded_detectron2"
    # At the end of the path, so that a detectron2 that is installed later takes precedence.
    sys.path.append(str(embedded))
    logging.getLogger(__name__).warning("detectron2 is not installed: using the embedded one in %s", embedded)


_ensure_detectron2()

with warnings.catch_warnings():
    # fvcore.nn compiles its losses with torch.jit.script when it is imported, which recent PyTorch versions deprecate.
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
    from . import backbones, coloring, data, fcis, instance_fcn, model_zoo, semiconv  # noqa: F401  (registers models)
    from .config import add_config
    from .errors import InputError
    from .inference.predictor import Predictor

__all__ = ["InputError", "Predictor", "add_config"]
__version__ = "0.2.0.dev0"
