"""Learning rate schedules, as functions of the finished fraction of the training (0 to 1)."""

from __future__ import annotations

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim.lr_scheduler import LRScheduler


class WarmupParamScheduler(CompositeParamScheduler):
    """Add a warm-up before a schedule."""

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ):
        """
        Args:
            scheduler: schedule after the warm-up.
            warmup_factor: the warm-up starts at this factor times ``scheduler(0)``.
            warmup_length: length of the warm-up, as a fraction of the training (0 to 1).
            warmup_method: "linear" increases up to the schedule's value at the end of the warm-up. "constant" stays at
                the start value.
            rescale_interval: True runs the whole schedule after the warm-up. False skips the part of the schedule that
                the warm-up replaces.

        Raises:
            ValueError: ``warmup_method`` has another value.
        """
        end = scheduler(0.0) if rescale_interval else scheduler(warmup_length)
        start = warmup_factor * scheduler(0.0)
        if warmup_method == "constant":
            warmup: ParamScheduler = ConstantParamScheduler(start)
        elif warmup_method == "linear":
            warmup = LinearParamScheduler(start, end)
        else:
            raise ValueError(f"Unknown warmup method: {warmup_method}")
        super().__init__(
            [warmup, scheduler],
            lengths=[warmup_length, 1 - warmup_length],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
        )


class LRMultiplier(LRScheduler):
    """Multiplies each group's initial learning rate by a schedule. Call ``step()`` once per iteration."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1
    ):
        """
        Args:
            optimizer: optimizer whose learning rates are set.
            multiplier: schedule, evaluated at iteration / ``max_iter``.
            max_iter: number of iterations of the training.
            last_iter: the last finished iteration, or -1 at the start.
        """
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"multiplier is {multiplier!r}, expected a fvcore ParamScheduler")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict:
        """Return the state without the schedule, which comes from the config."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        """Return the learning rate of each group at the current iteration."""
        value = self._multiplier(self.last_epoch / self._max_iter)
        return [base * value for base in self.base_lrs]
