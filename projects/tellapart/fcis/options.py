"""What ``MODEL.FCIS`` may say, checked before anything is built of it."""

from __future__ import annotations

import math

from detectron2.config import CfgNode
from detectron2.layers import get_norm

from ..errors import InputError
from ..position_sensitive import SAMPLINGS
from ..validation import check_keys, check_mask_on


def check_options(cfg: CfgNode) -> CfgNode:
    """``cfg.MODEL.FCIS``, every value of which makes sense, as do Detectron2's keys that FCIS reads in its own way.

    Raises:
        InputError: names the key, what it is and what is wanted.
    """
    options, model = cfg.MODEL.FCIS, cfg.MODEL
    check_mask_on(model, "FCIS")
    regions, loss = model.ROI_HEADS.BATCH_SIZE_PER_IMAGE, model.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE
    only = "'smooth_l1', the only one that FCIS has"
    check_keys("MODEL.ROI_HEADS", model.ROI_HEADS, [("BATCH_SIZE_PER_IMAGE", regions >= 1, "1 or more")])
    check_keys("MODEL.ROI_BOX_HEAD", model.ROI_BOX_HEAD, [("BBOX_REG_LOSS_TYPE", loss == "smooth_l1", only)])

    cells, positions = options.RESOLUTION, options.GRID_SIZE
    enough = f"at least MODEL.FCIS.GRID_SIZE, {positions}: with fewer cells than positions "
    enough += "no cell reads some of the maps"
    counts = ("GRID_SIZE", "RESOLUTION", "CONV_KERNEL", "NUM_ROUNDS", "CHUNK_SIZE")
    whole = all(type(dim) is int and dim > 0 for dim in options.CONV_DIMS)
    checks = [
        ("SAMPLING", options.SAMPLING in SAMPLINGS, f"one of {list(SAMPLINGS)}"),
        *((key, options[key] >= 1, "1 or more") for key in counts),
        ("RESOLUTION", cells >= positions, enough),
        ("CONV_KERNEL", options.CONV_KERNEL % 2 == 1, "an odd number"),
        ("CONV_DIMS", whole, "whole numbers of 1 or more"),
        *((key, 0 <= options[key] < math.inf, "0 or more") for key in ("SEG_LOSS_WEIGHT", "BOX_LOSS_WEIGHT")),
        ("MASK_THRESH", 0 < options.MASK_THRESH < 1, "more than 0 and less than 1"),
        # at 0 everything in the image votes on every mask
        ("VOTE_IOU", 0 < options.VOTE_IOU <= 1, "more than 0 and at most 1"),
    ]
    check_keys("MODEL.FCIS", options, checks)
    _check_norm(options)
    return options


def _check_norm(options: CfgNode) -> None:
    """Which norms there are, and for how many channels, Detectron2 alone knows: so they are made."""
    for dim in options.CONV_DIMS:
        try:
            get_norm(options.NORM, dim)
        except (KeyError, ValueError) as error:
            raise InputError(
                f"MODEL.FCIS.NORM is {options.NORM!r}, wanted '' or a norm of Detectron2 for {dim} channels "
                f"(MODEL.FCIS.CONV_DIMS): {error}"
            ) from error
