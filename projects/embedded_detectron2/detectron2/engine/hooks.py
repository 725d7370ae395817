"""Hooks of the default trainer: timer, writers, checkpoints, learning rate, evaluation."""

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

__all__ = ["IterationTimer", "PeriodicWriter", "PeriodicCheckpointer", "LRScheduler", "EvalHook"]


class IterationTimer(HookBase):
    """Store the time of each iteration, in seconds, as "time", and log a summary. Must be the first hook."""

    def __init__(self, warmup_iter: int = 3):
        """
        Args:
            warmup_iter: number of iterations at the start that the summary leaves out. "time" is stored from the last
                of them on.
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
        num_done = self.trainer.storage.iter - self.trainer.start_iter + 1
        if num_done >= self._warmup_iter:
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
    """Call the writers every ``period`` iterations and at the end of training, then close them."""

    def __init__(self, writers: list[EventWriter], period: int = 20):
        for writer in writers:
            assert isinstance(writer, EventWriter), f"a writer must be an EventWriter, got {writer!r}"
        self._writers = writers
        self._period = period

    def after_step(self):
        if (self.trainer.iter + 1) % self._period == 0 or self.trainer.iter == self.trainer.max_iter - 1:
            for writer in self._writers:
                writer.write()

    def after_train(self):
        for writer in self._writers:
            writer.write()  # other hooks may have stored values after the last iteration
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """Save a checkpoint every ``period`` iterations and after the last one: fvcore's class as a hook."""

    def before_train(self):
        self.max_iter = self.trainer.max_iter

    def after_step(self):
        self.step(self.trainer.iter)


class LRScheduler(HookBase):
    """Store the learning rate as "lr" and step the scheduler after each iteration."""

    def __init__(self, optimizer=None, scheduler=None):
        """
        Args:
            optimizer, scheduler: by default those of the trainer.
        """
        self._optimizer = optimizer
        self._scheduler = scheduler

    def before_train(self):
        self._optimizer = self._optimizer or self.trainer.optimizer
        self._best_param_group_id = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer) -> int:
        """Return the index of the parameter group whose learning rate is stored.

        It is the group with most parameters. If every group has one parameter, it is the first group with the most
        frequent learning rate.
        """
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
        """The given scheduler, or that of the trainer."""
        return self._scheduler or self.trainer.scheduler

    def state_dict(self) -> dict:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict) -> None:
        logging.getLogger(__name__).info("Loading scheduler from state_dict ...")
        self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Evaluate during and after training, and store the results as "task/metric"."""

    def __init__(self, eval_period: int, eval_function, eval_after_train: bool = True):
        """
        Args:
            eval_period: number of iterations. 0 means only after the last iteration.
            eval_function: returns a nested dict of numbers, or None. All processes call it.
            eval_after_train: whether to evaluate after the last iteration.
        """
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _do_eval(self) -> None:
        results = self._func()
        if results:
            assert isinstance(results, dict), f"[EvalHook] eval_function must return a dict, got {results}"
            flattened = flatten_results_dict(results)
            for k, v in flattened.items():
                try:
                    flattened[k] = float(v)
                except (TypeError, ValueError) as e:
                    raise ValueError(
                        f"[EvalHook] eval_function must return a nested dict of numbers, got {v!r} for {k}"
                    ) from e
            self.trainer.storage.put_scalars(**flattened, smoothing_hint=False)
        comm.synchronize()  # evaluation may take longer in some processes

    def after_step(self):
        num_done = self.trainer.iter + 1
        if self._period > 0 and num_done % self._period == 0 and num_done != self.trainer.max_iter:
            self._do_eval()  # after_train evaluates after the last iteration

    def after_train(self):
        # If training failed, fewer than max_iter iterations are done.
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()
        del self._func  # may refer to the trainer, which then would not be freed
