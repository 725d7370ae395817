"""The evaluation loop and the base class of evaluators."""

from __future__ import annotations

import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from detectron2.utils.comm import get_world_size, is_main_process
from detectron2.utils.logger import log_every_n_seconds

logger = logging.getLogger(__name__)


class DatasetEvaluator:
    """Base class of evaluators: `process` collects a model's outputs, `evaluate` evaluates them."""

    def reset(self) -> None:
        """Start a new evaluation."""

    def process(self, inputs: list, outputs: list) -> None:
        """Add a batch: the model's inputs and outputs."""

    def evaluate(self):
        """Return {task: {metric: score}}. Processes without a result return None or {}."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one. Their results must have different keys."""

    def __init__(self, evaluators: list[DatasetEvaluator]) -> None:
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list, outputs: list) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> OrderedDict:
        results: OrderedDict = OrderedDict()
        for evaluator in self._evaluators:
            result = evaluator.evaluate()
            if is_main_process() and result is not None:
                for key, value in result.items():
                    assert key not in results, f"Different evaluators produce results with the same key {key}"
                    results[key] = value
        return results


class _Stopwatch:
    """Measures the time of loading, computing and evaluating.

    The first iterations do not count, because they are slower.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.warmup = min(5, total - 1)
        self.restart()

    def restart(self) -> None:
        self.start = time.perf_counter()
        self.data = self.compute = self.eval = 0.0

    def log_progress(self, index: int) -> None:
        iterations = index + 1 - self.warmup * (index >= self.warmup)
        per_iter = (time.perf_counter() - self.start) / iterations
        if index < self.warmup * 2 and self.compute / iterations <= 5:
            return
        eta = datetime.timedelta(seconds=int(per_iter * (self.total - index - 1)))
        log_every_n_seconds(
            logging.INFO,
            f"Inference done {index + 1}/{self.total}. "
            f"Dataloading: {self.data / iterations:.4f} s/iter. "
            f"Inference: {self.compute / iterations:.4f} s/iter. "
            f"Eval: {self.eval / iterations:.4f} s/iter. "
            f"Total: {per_iter:.4f} s/iter. ETA={eta}",
            n=5,
        )

    def log_summary(self) -> None:
        seconds = time.perf_counter() - self.start
        iterations = self.total - self.warmup
        for what, spent, shown in (
            ("time", seconds, datetime.timedelta(seconds=seconds)),
            ("pure compute time", self.compute, datetime.timedelta(seconds=int(self.compute))),
        ):
            per_iter = spent / iterations
            logger.info(
                f"Total inference {what}: {shown} ({per_iter:.6f} s / iter per device, on {get_world_size()} devices)"
            )


def inference_on_dataset(
    model: Callable,
    data_loader,
    evaluator: DatasetEvaluator | list[DatasetEvaluator] | None,
    callbacks: Mapping[str, Callable[[], None]] | None = None,
):
    """Run a model over a data loader, evaluate its outputs, and log the speed.

    Args:
        model: function from a batch to outputs. A module is run in eval mode.
        data_loader: iterable of batches with a length.
        evaluator: one evaluator, several, or None to measure the speed only.
        callbacks: functions to call at "on_start", "before_inference", "after_inference" and "on_end".

    Returns:
        The result of the evaluator's ``evaluate``, or {} for None.
    """
    callbacks = callbacks or {}

    def call(stage: str) -> None:
        callbacks.get(stage, lambda: None)()

    total = len(data_loader)
    logger.info(f"Start inference on {total} batches")
    if evaluator is None or isinstance(evaluator, list):
        evaluator = DatasetEvaluators(evaluator or [])
    evaluator.reset()
    watch = _Stopwatch(total)
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        call("on_start")
        started = time.perf_counter()
        for index, inputs in enumerate(data_loader):
            if index == watch.warmup:
                watch.restart()
            else:
                watch.data += time.perf_counter() - started
            call("before_inference")
            started = time.perf_counter()
            outputs = model(inputs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            watch.compute += time.perf_counter() - started
            call("after_inference")
            started = time.perf_counter()
            evaluator.process(inputs, outputs)
            watch.eval += time.perf_counter() - started
            watch.log_progress(index)
            started = time.perf_counter()
        call("on_end")
    watch.log_summary()
    results = evaluator.evaluate()
    return {} if results is None else results


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Set a module to eval mode, and afterwards back to the mode before."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
