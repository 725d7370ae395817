"""Stopping a training: a checkpoint on SIGTERM, SIGUSR1 and Ctrl-C, on one process or several, and no orphans."""

from __future__ import annotations

import logging
import os
import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

from ..data.worker_signals import STOP_SIGNALS

logger = logging.getLogger(__name__)


class PreemptionHook(HookBase):
    """On a signal: finish the iteration, save a checkpoint, exit with code 128 + signal number.

    An evaluation is left at once, because it can take longer than a scheduler waits; the checkpoint is then that of
    the iteration before it. A second Ctrl-C ends the process without a checkpoint. With several processes, a signal to
    one of them stops all of them after the same iteration. A process whose ``torchrun`` has died stops as after
    ``SIGTERM``.

    Register this hook last: the learning rate schedule and the writers have then processed the iteration that is
    saved.
    """

    def __init__(self) -> None:
        self._received = 0
        self._left_evaluation = False
        self._previous_handlers: dict[int, Any] = {}
        self._torchrun = 0
        self._group: dist.ProcessGroup | None = None

    def before_train(self) -> None:
        """Install the signal handlers."""
        self._previous_handlers = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        # Only torchrun's processes end with their parent: nohup's and a shell's go on without it.
        self._torchrun = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else 0
        if comm.get_world_size() > 1:
            # On the CPU, because a tensor on a GPU would make each iteration wait for the GPU.
            self._group = dist.new_group(backend="gloo")

    def after_step(self) -> None:
        """Save a checkpoint and exit if any process has received a signal."""
        if self._torchrun and os.getppid() != self._torchrun and not self._received:
            self._received = signal.SIGTERM
            logger.warning("torchrun, which started this process, has died: stopping")
        number = self._received_by_any_process()
        if number:
            self._save(number)
            comm.synchronize()
            raise SystemExit(128 + number)

    def after_train(self) -> None:
        """Save a checkpoint if an evaluation was left, and restore the previous signal handlers."""
        if self._left_evaluation and self.trainer.iter + 1 < self.trainer.max_iter:
            self._save(self._received)
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers = {}
        self._group = None
        if self._left_evaluation:  # also if another error came meanwhile, of a loader's worker or another process
            raise SystemExit(128 + self._received)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        is_first, self._received = not self._received, number
        is_evaluating = not self.trainer.model.training
        if is_first and comm.is_main_process():
            name = signal.Signals(number).name
            then = "leaving the evaluation" if is_evaluating else f"finishing iteration {self.trainer.iter}"
            # Not by print or the logger, because a signal can arrive within them.
            os.write(2, f"{name}: {then}, then saving (Ctrl-C again: leaving at once)\n".encode())
        if is_evaluating and not self._left_evaluation:
            self._left_evaluation = True
            raise SystemExit(128 + number)

    def _received_by_any_process(self) -> int:
        if self._group is None:
            return self._received
        received = torch.tensor([self._received])
        dist.all_reduce(received, op=dist.ReduceOp.MAX, group=self._group)
        return int(received)

    def _save(self, number: int) -> None:
        iteration = self.trainer.iter
        name = f"model_{iteration:07d}"
        self.trainer.checkpointer.save(name, iteration=iteration)
        logger.warning(
            "%s: saved %s.pth after iteration %d; go on with --resume", signal.Signals(number).name, name, iteration
        )
