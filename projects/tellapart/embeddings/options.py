"""What ``MODEL.SEMICONV`` may say, checked before anything is built of it."""

from __future__ import annotations

import math

from detectron2.config import CfgNode

from ..validation import check_keys
from .kernels import KERNEL_REGISTRY, SEEDS
from .operator import MIXING_REGISTRY


def check_options(cfg: CfgNode) -> CfgNode:
    """``cfg.MODEL.SEMICONV``, every value of which makes sense.

    Raises:
        InputError: names the key, what it is and what is wanted.
    """
    options = cfg.MODEL.SEMICONV
    names = {
        "MIXING": [name for name, _ in MIXING_REGISTRY],
        "KERNEL": [name for name, _ in KERNEL_REGISTRY],
        "SEED": list(SEEDS),
    }
    widths, factors = ("PIXELS_PER_UNIT", "SIGMA"), ("GRADIENT_SCALE", "EMBEDDING_LOSS_WEIGHT", "KERNEL_LOSS_WEIGHT")
    checks = [
        *((key, options[key] in known, f"one of {known}") for key, known in names.items()),
        ("EMBEDDING_DIM", options.EMBEDDING_DIM >= 2, "at least 2 (x and y)"),
        ("CONV_DIM", options.CONV_DIM >= 1, "1 or more"),
        *((key, 0 < options[key] < math.inf, "a number above 0") for key in widths),
        *((key, 0 <= options[key] < math.inf, "0 or more") for key in factors),
    ]
    check_keys("MODEL.SEMICONV", options, checks)
    return options
