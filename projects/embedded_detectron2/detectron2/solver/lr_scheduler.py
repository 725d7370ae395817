"""Learning rates as fvcore's parameter schedules, functions of the fraction of training done in [0, 1]."""

from __future__ import annotations

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["LRMultiplier", "WarmupParamScheduler"]


class WarmupParamScheduler(CompositeParamScheduler):
    """A schedule with a warm-up before it."""

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
            scheduler: what follows the warm-up.
            warmup_factor: the warm-up starts at this times ``scheduler(0)``.
            warmup_length: fraction of training that it takes, in [0, 1].
            warmup_method: "linear" rises to the schedule's value where it takes over, "constant" stays.
            rescale_interval: False: the schedule's first part is skipped; True: all of it is squeezed into the rest.

        Raises:
            ValueError: another ``warmup_method``.
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
    """Multiplies every group's initial learning rate by a schedule's value; ``step()`` once per iteration."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1
    ):
        """
        Args:
            optimizer: its groups' learning rates are set.
            multiplier: the schedule; "where" is iteration / ``max_iter``.
            max_iter: iterations in all.
            last_iter: the last iteration done, -1 at the start.
        """
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"multiplier must be a fvcore ParamScheduler, got {multiplier!r}")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict:
        """Only what changes; the schedule comes from the config."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        """Learning rate per group at the current iteration."""
        value = self._multiplier(self.last_epoch / self._max_iter)
        return [base * value for base in self.base_lrs]
