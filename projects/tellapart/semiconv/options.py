"""What ``MODEL.SEMICONV`` may say, checked before anything is built of it."""

from __future__ import annotations

import math

from detectron2.config import CfgNode

from ..errors import InputError
from .kernels import KERNEL_REGISTRY, SEEDS
from .operator import MIXING_REGISTRY

LOSS_LEVELS = ("own", "all")


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
        "LOSS_LEVELS": list(LOSS_LEVELS),
    }
    for key, known in names.items():
        if options[key] not in known:
            raise InputError(f"MODEL.SEMICONV.{key} is {options[key]!r}, wanted one of {known}")
    if options.EMBEDDING_DIM < 2:
        raise InputError(f"MODEL.SEMICONV.EMBEDDING_DIM is {options.EMBEDDING_DIM}, wanted at least 2 (x and y)")
    if options.CONV_DIM < 1:
        raise InputError(f"MODEL.SEMICONV.CONV_DIM is {options.CONV_DIM}, wanted 1 or more")
    for key in ("PIXELS_PER_UNIT", "SIGMA"):
        if not 0 < options[key] < math.inf:
            raise InputError(f"MODEL.SEMICONV.{key} is {options[key]}, wanted a number above 0")
    for key in ("GRADIENT_SCALE", "EMBEDDING_LOSS_WEIGHT", "KERNEL_LOSS_WEIGHT"):
        if not 0 <= options[key] < math.inf:
            raise InputError(f"MODEL.SEMICONV.{key} is {options[key]}, wanted 0 or more")
    return options
