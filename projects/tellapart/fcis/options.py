"""Checks of the values in ``MODEL.FCIS``, before anything is built from them."""

from __future__ import annotations

import math

from detectron2.config import CfgNode
from detectron2.layers import get_norm

from ..errors import InputError
from ..position_sensitive import SAMPLINGS
from ..validation import check_keys, check_mask_on


def check_options(cfg: CfgNode) -> CfgNode:
    """Check ``cfg.MODEL.FCIS`` and Detectron2's keys that FCIS interprets in its own way; return the former.

    Raises:
        InputError: a value that cannot work; the message names the key, its value and what was expected.
    """
    options, model = cfg.MODEL.FCIS, cfg.MODEL
    check_mask_on(model, "FCIS")
    num_regions, loss_type = model.ROI_HEADS.BATCH_SIZE_PER_IMAGE, model.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE
    check_keys("MODEL.ROI_HEADS", model.ROI_HEADS, [("BATCH_SIZE_PER_IMAGE", num_regions >= 1, "1 or more")])
    only_smooth_l1 = "'smooth_l1', the only box loss that FCIS has"
    check_keys(
        "MODEL.ROI_BOX_HEAD", model.ROI_BOX_HEAD, [("BBOX_REG_LOSS_TYPE", loss_type == "smooth_l1", only_smooth_l1)]
    )

    grid_size = options.GRID_SIZE
    enough_cells = (
        f"at least MODEL.FCIS.GRID_SIZE, {grid_size}: with fewer cells than bins some score maps would never be read"
    )
    positive_integers = ("GRID_SIZE", "RESOLUTION", "CONV_KERNEL", "NUM_ROUNDS", "CHUNK_SIZE")
    valid_dims = all(type(dim) is int and dim > 0 for dim in options.CONV_DIMS)
    checks = [
        ("SAMPLING", options.SAMPLING in SAMPLINGS, f"one of {list(SAMPLINGS)}"),
        *((key, options[key] >= 1, "1 or more") for key in positive_integers),
        ("RESOLUTION", grid_size <= options.RESOLUTION, enough_cells),
        ("CONV_KERNEL", options.CONV_KERNEL % 2 == 1, "an odd number"),
        ("CONV_DIMS", valid_dims, "whole numbers of 1 or more"),
        *((key, 0 <= options[key] < math.inf, "0 or more") for key in ("SEG_LOSS_WEIGHT", "BOX_LOSS_WEIGHT")),
        ("MASK_THRESH", 0 < options.MASK_THRESH < 1, "more than 0 and less than 1"),
        # with 0, all candidates of an image would vote on every mask
        ("VOTE_IOU", 0 < options.VOTE_IOU <= 1, "more than 0 and at most 1"),
    ]
    check_keys("MODEL.FCIS", options, checks)
    _check_norm(options)
    return options


def _check_norm(options: CfgNode) -> None:
    """Check ``NORM`` by building a layer for each of ``CONV_DIMS``: only Detectron2 knows which norms exist."""
    for dim in options.CONV_DIMS:
        try:
            get_norm(options.NORM, dim)
        except (KeyError, ValueError) as error:
            raise InputError(
                f"MODEL.FCIS.NORM is {options.NORM!r}, expected '' or a norm of Detectron2 for {dim} channels "
                f"(MODEL.FCIS.CONV_DIMS): {error}"
            ) from error
