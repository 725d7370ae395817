"""Checks of the config section ``MODEL.SEMICONV``."""

from __future__ import annotations

import math

from detectron2.config import CfgNode

from ..validation import check_keys
from .kernels import KERNEL_REGISTRY, SEED_FUNCTIONS
from .operator import MIXING_REGISTRY


def check_options(cfg: CfgNode) -> CfgNode:
    """Check every value of ``cfg.MODEL.SEMICONV`` and return that section.

    Raises:
        InputError: names the first key with a wrong value, the value, and what is expected.
    """
    options = cfg.MODEL.SEMICONV
    known_names = {
        "MIXING": [name for name, _ in MIXING_REGISTRY],
        "KERNEL": [name for name, _ in KERNEL_REGISTRY],
        "SEED": list(SEED_FUNCTIONS),
        "MASK_RESOLUTION": ["roi", "image"],
    }
    positive_keys = ("PIXELS_PER_UNIT", "SIGMA")
    factor_keys = ("GRADIENT_SCALE", "EMBEDDING_LOSS_WEIGHT", "KERNEL_LOSS_WEIGHT")
    checks = [
        *((key, options[key] in names, f"one of {names}") for key, names in known_names.items()),
        ("EMBEDDING_DIM", options.EMBEDDING_DIM >= 2, "at least 2 (x and y)"),
        ("CONV_DIM", options.CONV_DIM >= 1, "1 or more"),
        *((key, 0 < options[key] < math.inf, "a number above 0") for key in positive_keys),
        *((key, 0 <= options[key] < math.inf, "0 or more") for key in factor_keys),
    ]
    check_keys("MODEL.SEMICONV", options, checks)
    return options
