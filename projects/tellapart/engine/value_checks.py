"""Check the values of a config before anything long starts: all wrong ones in one message."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..data.reader import BAD_ANNOTATIONS
from ..data.reading_options import ReadingOptions
from ..errors import InputError
from ..inference.image_model import parse_tile

logger = logging.getLogger(__name__)
_SCHEDULERS = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
_CROPS = ("relative", "relative_range", "absolute", "absolute_range")
_OWN_ARCHITECTURES = ("FCIS", "InstanceFCN", "SemiConvColoring")


def check_values(cfg: CfgNode, evaluators: tuple[str, ...], is_training: bool) -> None:
    """Check the values that would fail late, or in silence.

    Args:
        cfg: the config.
        evaluators: the valid names in ``TEST.EVALUATORS``.
        is_training: whether the model is trained; what only concerns training is not checked otherwise.

    Raises:
        InputError: one line per key: its value and what is expected.
    """
    ReadingOptions.from_cfg(cfg)
    checks = list(_common(cfg, evaluators))
    if is_training:
        checks += _training(cfg)
    wrong = [
        f"{key} is {_value(cfg, key)!r}, expected {expected}" for key, is_valid, expected in checks if not is_valid
    ]
    if wrong:
        raise InputError("\n  ".join([wrong[0], *wrong[1:]]))
    late = [step for step in cfg.SOLVER.STEPS if step >= cfg.SOLVER.MAX_ITER]
    if is_training and late and cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupCosineLR":
        logger.warning(
            "SOLVER.STEPS %s are not before SOLVER.MAX_ITER %d: the learning rate does not fall there", late,
            cfg.SOLVER.MAX_ITER,
        )  # fmt: skip


def _value(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return node


def _is_sizes(value: Any) -> bool:
    sizes = value if isinstance(value, (tuple, list)) else (value,)
    return bool(sizes) and all(type(size) is int and size >= 0 for size in sizes)


def _common(cfg: CfgNode, evaluators: tuple[str, ...]) -> Iterator[tuple[str, bool, str]]:
    yield (
        "TEST.EVALUATORS",
        bool(cfg.TEST.EVALUATORS) and set(cfg.TEST.EVALUATORS) <= set(evaluators),
        (f"one or more of {', '.join(evaluators)}"),
    )
    yield "TEST.DETECTIONS_PER_IMAGE", cfg.TEST.DETECTIONS_PER_IMAGE >= 1, "at least 1"
    yield "TEST.TILE", cfg.TEST.TILE is None or _is_tile(cfg.TEST.TILE), "auto, off, or at least 32 pixels"
    yield "TEST.EVAL_PERIOD", cfg.TEST.EVAL_PERIOD >= 0, "0 (only at the end) or a number of iterations"
    own = cfg.MODEL.META_ARCHITECTURE in _OWN_ARCHITECTURES
    is_coloring = cfg.MODEL.META_ARCHITECTURE == "SemiConvColoring"
    yield "TEST.AUG.ENABLED", not (cfg.TEST.AUG.ENABLED and is_coloring), "False for SemiConvColoring"
    sizes = cfg.TEST.AUG.MIN_SIZES
    yield "TEST.AUG.MIN_SIZES", not sizes or (_is_sizes(sizes) and min(sizes) > 0), "numbers of pixels, or () for none"
    yield "MODEL.LOAD_PROPOSALS", not (cfg.MODEL.LOAD_PROPOSALS and own), f"False for {cfg.MODEL.META_ARCHITECTURE}"
    yield "MODEL.KEYPOINT_ON", not (cfg.MODEL.KEYPOINT_ON and own), f"False for {cfg.MODEL.META_ARCHITECTURE}"
    yield "MODEL.DEVICE", _has_device(cfg.MODEL.DEVICE), "cpu, cuda, or a device that this machine has, such as cuda:0"
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    yield (
        "MODEL.PIXEL_STD",
        len(mean) == len(std) and all(value > 0 for value in std),
        (f"{len(mean)} numbers above 0, as many as in MODEL.PIXEL_MEAN"),
    )
    yield "MODEL.ROI_HEADS.NUM_CLASSES", cfg.MODEL.ROI_HEADS.NUM_CLASSES >= 1, "at least 1"
    for key in ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "MODEL.ROI_HEADS.NMS_THRESH_TEST", "MODEL.RPN.NMS_THRESH"):
        yield key, 0 <= _value(cfg, key) <= 1, "a number from 0 to 1"
    yield "INPUT.FORMAT", cfg.INPUT.FORMAT in ("BGR", "RGB", "L", "YUV-BT.601"), "BGR, RGB, L or YUV-BT.601"
    yield "INPUT.MASK_FORMAT", cfg.INPUT.MASK_FORMAT in ("polygon", "bitmask"), "polygon or bitmask"
    yield "INPUT.MIN_SIZE_TEST", _is_sizes(cfg.INPUT.MIN_SIZE_TEST), "a number of pixels, or 0 for no resizing"
    yield "INPUT.MAX_SIZE_TEST", cfg.INPUT.MAX_SIZE_TEST >= 1, "a number of pixels above 0"
    yield "DATALOADER.NUM_WORKERS", cfg.DATALOADER.NUM_WORKERS >= 0, "0 or more"
    yield "DATALOADER.BAD_ANNOTATIONS", cfg.DATALOADER.BAD_ANNOTATIONS in BAD_ANNOTATIONS, "drop or stop"
    yield "SEED", -1 <= cfg.SEED < 2**32, "-1 (random) to 2^32 - 1"
    yield "OUTPUT_DIR", _is_writable(cfg.OUTPUT_DIR), "a folder that can be written to"


def _training(cfg: CfgNode) -> Iterator[tuple[str, bool, str]]:
    solver, world = cfg.SOLVER, comm.get_world_size()
    yield "DATASETS.TRAIN", len(cfg.DATASETS.TRAIN) > 0, "at least one data set"
    yield (
        "SOLVER.IMS_PER_BATCH",
        solver.IMS_PER_BATCH >= 1 and solver.IMS_PER_BATCH % world == 0,
        ("at least 1" if world == 1 else f"a multiple of the {world} processes"),
    )
    yield "SOLVER.STEPS", list(solver.STEPS) == sorted(solver.STEPS), "iterations in ascending order"
    yield "SOLVER.MAX_ITER", solver.MAX_ITER >= 1, "at least 1 (tellapart eval evaluates without training)"
    yield "SOLVER.CHECKPOINT_PERIOD", solver.CHECKPOINT_PERIOD >= 1, "at least 1"
    yield "SOLVER.BASE_LR", 0 < solver.BASE_LR < math.inf, "a number above 0"
    yield "SOLVER.LR_SCHEDULER_NAME", solver.LR_SCHEDULER_NAME in _SCHEDULERS, f"one of {', '.join(_SCHEDULERS)}"
    yield "SOLVER.OPTIMIZER", solver.OPTIMIZER in ("SGD", "ADAMW"), "SGD or ADAMW"
    yield "SOLVER.EMA_DECAY", 0 <= solver.EMA_DECAY < 1, "0 (no average) or a number below 1, such as 0.998"
    yield "SOLVER.AMP.ENABLED", not solver.AMP.ENABLED or torch.cuda.is_available(), "False without a CUDA device"
    clip = solver.CLIP_GRADIENTS
    yield (
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
        clip.CLIP_TYPE in ("value", "norm", "full_model"),
        "value, norm or full_model",
    )
    yield (
        "INPUT.RANDOM_FLIP",
        cfg.INPUT.RANDOM_FLIP in ("horizontal", "vertical", "none"),
        "horizontal, vertical or none",
    )
    crop = cfg.INPUT.CROP
    yield "INPUT.CROP.TYPE", not crop.ENABLED or crop.TYPE in _CROPS, f"one of {', '.join(_CROPS)}"
    largest = 1 if crop.TYPE.startswith("relative") else math.inf
    fits = len(crop.SIZE) == 2 and all(0 < size <= largest for size in crop.SIZE)
    yield "INPUT.CROP.SIZE", not crop.ENABLED or fits, f"two numbers above 0 for INPUT.CROP.TYPE {crop.TYPE}"
    yield "INPUT.MIN_SIZE_TRAIN", _is_sizes(cfg.INPUT.MIN_SIZE_TRAIN), "numbers of pixels, or 0 for no resizing"
    yield "INPUT.MAX_SIZE_TRAIN", cfg.INPUT.MAX_SIZE_TRAIN >= 1, "a number of pixels above 0"
    sampling = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    yield "INPUT.MIN_SIZE_TRAIN_SAMPLING", sampling in ("choice", "range"), "choice or range"
    has_range = sampling != "range" or len(cfg.INPUT.MIN_SIZE_TRAIN) == 2
    yield "INPUT.MIN_SIZE_TRAIN", has_range, "two sizes, because INPUT.MIN_SIZE_TRAIN_SAMPLING is range"


def _is_tile(value: Any) -> bool:
    try:
        parse_tile(value)
    except InputError:
        return False
    return True


def is_device(name: str) -> bool:
    """Return whether ``name`` is a device that PyTorch knows, such as "cuda:1"; it may not have this one."""
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


def _has_device(name: str) -> bool:
    if not is_device(name):
        return False
    device = torch.device(name)
    return device.type != "cuda" or (device.index or 0) < torch.cuda.device_count()


def _is_writable(folder: str) -> bool:
    """Return whether ``folder``, or the nearest parent that exists, is a folder that can be written to."""
    path = os.path.abspath(folder)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.path.isdir(path) and os.access(path, os.W_OK)


def with_tuples_of_names(cfg: CfgNode) -> CfgNode:
    """Return ``cfg`` or, if ``DATASETS.TRAIN`` or ``TEST`` is one name as text, a copy with a tuple of that name.

    A text would be iterated by its letters.
    """
    for key in ("TRAIN", "TEST"):
        name = cfg.DATASETS[key]
        if isinstance(name, str):
            logger.info("DATASETS.%s is the text %r: read as ('%s',)", key, name, name)
            cfg = cfg.clone()
            cfg.defrost()
            cfg.DATASETS[key] = (name,)
            cfg.freeze()
    return cfg
