"""What usually happens around training steps."""

from __future__ import annotations

import datetime
import logging
import time
from collections import Counter

from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.timer import Timer

from detectron2.engine.train_loop import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

__all__ = [
    "IterationTimer",
    "PeriodicWriter",
    "PeriodicCheckpointer",
    "LRScheduler",
    "EvalHook",
]


class IterationTimer(HookBase):
    """Stores each iteration's "time" in seconds and logs a summary at the end; goes first in the list of hooks."""

    def __init__(self, warmup_iter: int = 3):
        """
        Args:
            warmup_iter: this many iterations at the start are not counted (the last of them already has a "time").
        """
        self._warmup_iter = warmup_iter
        self._step_timer = Timer()
        self._total_timer = Timer()

    def before_train(self):
        self._start_time = time.perf_counter()
        self._total_timer.reset()
        self._total_timer.pause()

    def before_step(self):
        self._step_timer.reset()
        self._total_timer.resume()

    def after_step(self):
        done = self.trainer.storage.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
        else:
            self._start_time = time.perf_counter()
            self._total_timer.reset()
        self._total_timer.pause()

    def after_train(self):
        logger = logging.getLogger(__name__)
        total = time.perf_counter() - self._start_time
        steps = self._total_timer.seconds()
        count = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter

        def clock(seconds: float) -> str:
            return str(datetime.timedelta(seconds=int(seconds)))

        if count > 0 and steps > 0:
            logger.info(f"Overall training speed: {count} iterations in {clock(steps)} ({steps / count:.4f} s / it)")
        logger.info(f"Total training time: {clock(total)} ({clock(total - steps)} on hooks)")


class PeriodicWriter(HookBase):
    """Lets writers write every ``period`` iterations and at the end, when they are closed too."""

    def __init__(self, writers: list[EventWriter], period: int = 20):
        for w in writers:
            assert isinstance(w, EventWriter), f"a writer must be an EventWriter, got {w!r}"
        self._writers = writers
        self._period = period

    def after_step(self):
        if (self.trainer.iter + 1) % self._period == 0 or self.trainer.iter == self.trainer.max_iter - 1:
            for writer in self._writers:
                writer.write()

    def after_train(self):
        for writer in self._writers:
            writer.write()  # what other hooks stored after the last step
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's ``PeriodicCheckpointer`` as a hook: saves every ``period`` iterations and after the last."""

    def before_train(self):
        self.max_iter = self.trainer.max_iter

    def after_step(self):
        self.step(self.trainer.iter)


class LRScheduler(HookBase):
    """Stores "lr" and steps a torch scheduler after each iteration; its state goes into checkpoints."""

    def __init__(self, optimizer=None, scheduler=None):
        """
        Args:
            optimizer, scheduler: default: the trainer's.
        """
        self._optimizer = optimizer
        self._scheduler = scheduler

    def before_train(self):
        self._optimizer = self._optimizer or self.trainer.optimizer
        self._best_param_group_id = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer) -> int:
        """The group whose rate stands for all: the largest; if each has one parameter, one of the commonest rate."""
        largest = max(len(g["params"]) for g in optimizer.param_groups)
        if largest == 1:
            rates = [g["lr"] for g in optimizer.param_groups]
            return rates.index(Counter(rates).most_common(1)[0][0])
        return next(i for i, g in enumerate(optimizer.param_groups) if len(g["params"]) == largest)

    def after_step(self):
        lr = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()

    @property
    def scheduler(self):
        """The scheduler: the given one or the trainer's."""
        return self._scheduler or self.trainer.scheduler

    def state_dict(self) -> dict:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict) -> None:
        logging.getLogger(__name__).info("Loading scheduler from state_dict ...")
        self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Evaluates every ``eval_period`` iterations and at the end, and stores the results by "task/metric"."""

    def __init__(self, eval_period: int, eval_function, eval_after_train: bool = True):
        """
        Args:
            eval_period: 0: only at the end.
            eval_function: returns a nested dict of numbers, or nothing; all processes call it.
            eval_after_train: whether to evaluate after the last iteration.
        """
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _do_eval(self) -> None:
        results = self._func()
        if results:
            assert isinstance(results, dict), f"Eval function must return a dict. Got {results} instead."
            flattened = flatten_results_dict(results)
            for k, v in flattened.items():
                try:
                    flattened[k] = float(v)
                except (TypeError, ValueError) as e:
                    raise ValueError(
                        f"[EvalHook] eval_function should return a nested dict of float. Got '{k}: {v}' instead."
                    ) from e
            self.trainer.storage.put_scalars(**flattened, smoothing_hint=False)
        comm.synchronize()  # evaluation takes the processes differently long

    def after_step(self):
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._do_eval()  # the last one is after_train's

    def after_train(self):
        # not if training has failed
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()
        del self._func  # it may hold the trainer
