"""What ``MODEL.FCIS`` may say, checked before anything is built of it."""

from __future__ import annotations

import math

from detectron2.config import CfgNode
from detectron2.layers import get_norm

from ..errors import InputError
from ..position_sensitive import SAMPLINGS


def check_options(cfg: CfgNode) -> CfgNode:
    """``cfg.MODEL.FCIS``, every value of which makes sense, as do Detectron2's keys that FCIS reads in its own way.

    Raises:
        InputError: names the key, what it is and what is wanted.
    """
    options, model = cfg.MODEL.FCIS, cfg.MODEL
    if not model.MASK_ON:  # the loader would bring no masks
        raise InputError("MODEL.MASK_ON is False, but FCIS learns from masks: set it to True")
    if model.ROI_HEADS.BATCH_SIZE_PER_IMAGE < 1:
        raise InputError(
            f"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE is {model.ROI_HEADS.BATCH_SIZE_PER_IMAGE}, wanted 1 or more"
        )
    if model.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE != "smooth_l1":
        raise InputError(
            f"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE is {model.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE!r}, wanted 'smooth_l1', "
            "the only one that FCIS has"
        )
    if options.SAMPLING not in SAMPLINGS:
        raise InputError(f"MODEL.FCIS.SAMPLING is {options.SAMPLING!r}, wanted one of {list(SAMPLINGS)}")
    for key in ("GRID_SIZE", "RESOLUTION", "CONV_KERNEL", "NUM_ROUNDS", "CHUNK_SIZE"):
        if options[key] < 1:
            raise InputError(f"MODEL.FCIS.{key} is {options[key]}, wanted 1 or more")
    if options.RESOLUTION < options.GRID_SIZE:
        raise InputError(
            f"MODEL.FCIS.RESOLUTION is {options.RESOLUTION}, wanted at least MODEL.FCIS.GRID_SIZE, "
            f"{options.GRID_SIZE}: with fewer cells than positions no cell reads some of the maps"
        )
    if options.CONV_KERNEL % 2 == 0:
        raise InputError(f"MODEL.FCIS.CONV_KERNEL is {options.CONV_KERNEL}, wanted an odd number")
    if not all(type(dim) is int and dim > 0 for dim in options.CONV_DIMS):
        raise InputError(f"MODEL.FCIS.CONV_DIMS is {options.CONV_DIMS}, wanted whole numbers of 1 or more")
    _check_norm(options)
    for key in ("SEG_LOSS_WEIGHT", "BOX_LOSS_WEIGHT"):
        if not 0 <= options[key] < math.inf:
            raise InputError(f"MODEL.FCIS.{key} is {options[key]}, wanted 0 or more")
    if not 0 < options.MASK_THRESH < 1:
        raise InputError(f"MODEL.FCIS.MASK_THRESH is {options.MASK_THRESH}, wanted more than 0 and less than 1")
    if not 0 < options.VOTE_IOU <= 1:  # at 0 everything in the image votes on every mask
        raise InputError(f"MODEL.FCIS.VOTE_IOU is {options.VOTE_IOU}, wanted more than 0 and at most 1")
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
