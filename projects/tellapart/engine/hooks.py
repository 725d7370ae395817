"""Hooks that make training stop and go on exactly: pre-emption, a seed for every step, the loss history."""

from __future__ import annotations

import logging
import random
import signal
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

logger = logging.getLogger(__name__)

# as long as the longest window that Detectron2's writers take a median over
_HISTORY = 20


class PreemptionHook(HookBase):
    """On ``SIGTERM`` or ``SIGUSR1``: finish the iteration, save a checkpoint, leave with code 128 + signal number.

    Register it last, so that schedulers and writers have had their turn at the iteration that is saved. All processes
    agree on the iteration: one that got the signal is enough.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self._received = 0
        self._previous: dict[int, Any] = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def before_train(self) -> None:
        """Take over the signals."""
        self._previous = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}

    def after_train(self) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _agreed(self) -> int:
        if comm.get_world_size() == 1:
            return self._received
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        flag = torch.tensor([self._received], device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return int(flag.item())

    def after_step(self) -> None:
        """Save and leave if a signal has come to any process."""
        number = self._agreed()
        if not number:
            return
        iteration = self.trainer.iter
        name = f"model_{iteration:07d}"
        self.trainer.checkpointer.save(name, iteration=iteration)
        logger.warning(
            "%s: saved %s.pth after iteration %d; go on with --resume", signal.Signals(number).name, name, iteration
        )
        comm.synchronize()
        raise SystemExit(128 + number)


class SeedEveryStep(HookBase):
    """Seed the generators from (seed, iteration, rank) before each step.

    What is sampled at an iteration then does not depend on how the run got there, so a resumed run repeats the
    uninterrupted one.
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
    """Carry the last values of smoothed scalars over a resume: writers print medians over the last 20 iterations."""

    def __init__(self) -> None:
        self._restored: dict[str, list[tuple[float, float]]] = {}

    def state_dict(self) -> dict[str, Any]:
        """Name -> [(value, iteration), ...] of every smoothed scalar."""
        storage = self.trainer.storage
        hints = storage.smoothing_hints()
        return {
            name: [(float(value), float(iteration)) for value, iteration in buffer.values()[-_HISTORY:]]
            for name, buffer in storage.histories().items()
            if hints.get(name, False)
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the values until there is a storage to put them in."""
        self._restored = state

    def before_train(self) -> None:
        """Put the values into the new storage."""
        storage = self.trainer.storage
        now = storage.iter
        for name, values in self._restored.items():
            for value, iteration in values:
                storage.iter = int(iteration)
                storage.put_scalar(name, value, smoothing_hint=True)
        storage.iter = now
        self._restored = {}
