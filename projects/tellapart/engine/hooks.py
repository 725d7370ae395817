"""Hooks for exact resuming: one seed per iteration, and the history of the losses."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

# The longest window, in iterations, over which Detectron2's writers compute a median.
_HISTORY_LENGTH = 20


class SeedEveryStep(HookBase):
    """Seed the random number generators from (seed, iteration, rank) before each iteration.

    The random numbers of an iteration then do not depend on earlier iterations, so that a resumed run computes the
    same as an uninterrupted run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_step(self) -> None:
        """Seed ``random``, numpy and torch."""
        entropy = np.random.SeedSequence([self.seed, self.trainer.iter, comm.get_rank()])
        first, second = (int(n) for n in entropy.generate_state(2))
        random.seed(first)
        np.random.seed(first)
        torch.manual_seed(second)


class KeepLossHistory(HookBase):
    """Store the last 20 values of each smoothed scalar in checkpoints, because writers print medians over them."""

    def __init__(self) -> None:
        self._restored: dict[str, list[tuple[float, float]]] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return [(value, iteration), ...] per name of a smoothed scalar."""
        storage = self.trainer.storage
        hints = storage.smoothing_hints()
        return {
            name: [(float(value), float(iteration)) for value, iteration in buffer.values()[-_HISTORY_LENGTH:]]
            for name, buffer in storage.histories().items()
            if hints.get(name, False)
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the values until training starts, because there is no event storage before."""
        self._restored = state

    def before_train(self) -> None:
        """Write the restored values into the event storage."""
        storage = self.trainer.storage
        start_iteration = storage.iter
        for name, values in self._restored.items():
            for value, iteration in values:
                storage.iter = int(iteration)
                storage.put_scalar(name, value, smoothing_hint=True)
        storage.iter = start_iteration
        self._restored = {}
