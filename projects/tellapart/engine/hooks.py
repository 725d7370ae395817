"""Hooks for exact resuming: checkpoint on preemption, one seed per iteration, and the history of the losses."""

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

# The longest window, in iterations, over which Detectron2's writers compute a median.
_HISTORY_LENGTH = 20


class PreemptionHook(HookBase):
    """On ``SIGTERM`` or ``SIGUSR1``: finish the iteration, save a checkpoint, exit with code 128 + signal number.

    Register this hook last: the learning rate schedule and the writers have then processed the iteration that is
    saved. With several processes, a signal to one of them stops all of them after the same iteration.
    """

    # Windows has no SIGUSR1.
    SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))

    def __init__(self) -> None:
        self._received = 0
        self._previous_handlers: dict[int, Any] = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def before_train(self) -> None:
        """Install the signal handlers."""
        self._previous_handlers = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}

    def after_train(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers = {}

    def _received_by_any_process(self) -> int:
        if comm.get_world_size() == 1:
            return self._received
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        received = torch.tensor([self._received], device=device)
        dist.all_reduce(received, op=dist.ReduceOp.MAX)
        return int(received.item())

    def after_step(self) -> None:
        """Save a checkpoint and exit if any process has received a signal."""
        number = self._received_by_any_process()
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
