"""Whether a run can go on with the optimizer of its last checkpoint, and where the two differ."""

from __future__ import annotations

import logging
from typing import Any

from ..errors import InputError, first_few

logger = logging.getLogger(__name__)
# Entry of an optimizer's parameter groups -> the keys of the config that decide it in a new run.
_KEYS = {
    "initial_lr": "SOLVER.BASE_LR, SOLVER.LR_FACTORS, SOLVER.BIAS_LR_FACTOR",
    "weight_decay": "SOLVER.WEIGHT_DECAY, SOLVER.WEIGHT_DECAY_NORM, SOLVER.WEIGHT_DECAY_BIAS",
    "momentum": "SOLVER.MOMENTUM",
    "nesterov": "SOLVER.NESTEROV",
}
_NAMES = {"initial_lr": "learning rate before the schedule", "weight_decay": "weight decay"}


def check_resumed_optimizer(path: str, saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Compare the optimizer's state in a checkpoint with the optimizer that the config builds.

    Values that differ (learning rates, weight decay, momentum) are logged as one warning: resuming goes on with the
    checkpoint's.

    Args:
        path: the checkpoint.
        saved: the state dict of its optimizer.
        current: the state dict of the new optimizer.

    Raises:
        InputError: the kinds of optimizer, or the trained parameters, differ.
    """
    old, new = saved["param_groups"], current["param_groups"]
    kinds = [_kind(groups) for groups in (old, new)]
    advice = f"Set it back, or start a new run from these weights: MODEL.WEIGHTS {path} without --resume"
    if kinds[0] != kinds[1]:
        raise InputError(
            f"cannot resume {path}: it was trained with {kinds[0]}, and SOLVER.OPTIMIZER is {kinds[1]}. {advice}"
        )
    counts = [sum(len(group["params"]) for group in groups) for groups in (old, new)]
    if counts[0] != counts[1]:
        raise InputError(
            f"cannot resume {path}: {counts[0]} parameters were trained, and this config trains {counts[1]}. A key "
            f"that freezes layers, such as MODEL.BACKBONE.FREEZE_AT, has changed. {advice}"
        )
    if [len(group["params"]) for group in old] != [len(group["params"]) for group in new]:
        raise InputError(
            f"cannot resume {path}: its {counts[0]} parameters are in {len(old)} groups of learning rate and weight "
            f"decay, and this config makes {len(new)} other groups. One of {_KEYS['initial_lr']}, "
            f"{_KEYS['weight_decay']} has changed. {advice}"
        )
    differences = []
    for entry, keys in _KEYS.items():
        pairs = [(a.get(entry), b.get(entry)) for a, b in zip(old, new)]
        different = [(a, b) for a, b in dict.fromkeys(pairs) if a is not None and b is not None and a != b]
        if different:
            values = first_few([f"{b:g} in the config, {a:g} in the checkpoint" for a, b in different])
            differences.append(f"{_NAMES.get(entry, entry)} {values} ({keys})")
    if differences:
        logger.warning(
            "resuming goes on with the optimizer of %s, and ignores what the config says otherwise: %s. To train with "
            "the config's values, start a new run: MODEL.WEIGHTS %s without --resume",
            path, "; ".join(differences), path,
        )  # fmt: skip


def _kind(groups: list[dict[str, Any]]) -> str:
    return "ADAMW" if any("betas" in group for group in groups) else "SGD"
