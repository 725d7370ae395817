"""Exponential moving average of the weights: checkpoints and evaluations have the average, training goes on without."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class WeightAverage:
    """The moving average of a model's parameters and buffers, which can take their place.

    After update t = 0, 1, ... the average is ``d * average + (1 - d) * weights`` with ``d = min(decay, (1 + t) / (10 +
    t))``, so that it follows the first iterations closely.

    Args:
        model: the model without wrapper for several processes. Its float tensors are averaged, batch-norm statistics
            included.
        decay: the largest d, below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        saved = model.state_dict().keys()
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._tensors = {name: one for name, one in named.items() if name in saved and one.is_floating_point()}
        self._other: dict[str, Tensor] = {}  # the average, or while `is_swapped` the trained weights
        self.decay, self.num_updates, self.is_swapped = decay, 0, False

    def start(self, trained: dict[str, Tensor] | None = None) -> None:
        """Start the average with the model's weights.

        Args:
            trained: the weights to train on with, of a checkpoint whose model is the average.
        """
        self._other, self.is_swapped = {name: one.detach().clone() for name, one in self._tensors.items()}, False
        if trained is not None:
            with torch.no_grad():
                for name, tensor in self._tensors.items():
                    tensor.copy_(trained[name])

    @torch.no_grad()
    def update(self) -> None:
        """Move the average toward the trained weights."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_([self._other[name] for name in self._tensors], list(self._tensors.values()), 1 - decay)
        self.num_updates += 1

    def swap(self) -> None:
        """Exchange the model's weights and the other ones, without copying."""
        for name, tensor in self._tensors.items():
            tensor.data, self._other[name] = self._other[name], tensor.data
        self.is_swapped = not self.is_swapped

    @contextlib.contextmanager
    def in_model(self) -> Iterator[None]:
        """Give the model the averaged weights, and then its own ones back if it had them before."""
        swaps = not self.is_swapped
        if swaps:
            self.swap()
        try:
            yield
        finally:
            if swaps:
                self.swap()

    def trained(self) -> dict[str, Tensor]:
        """Return the trained weights by name."""
        return dict(self._other) if self.is_swapped else {name: one.detach() for name, one in self._tensors.items()}


class AverageWeights(HookBase):
    """Average the weights after every iteration and leave the average in the model, until :class:`TrainOn`.

    Register it before the hooks that save and evaluate. Checkpoints have the average as their model, and the trained
    weights in the state of this hook, so that resuming repeats an uninterrupted run exactly.

    Args:
        decay: ``SOLVER.EMA_DECAY``.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._restored: dict[str, Any] | None = None
        self.average: WeightAverage | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates and the trained weights."""
        return {"num_updates": self.average.num_updates, "trained": self.average.trained()} if self.average else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the state until training starts, when the model has the average of the checkpoint."""
        self._restored = state

    def before_train(self) -> None:
        """Start, or go on with the average of a checkpoint."""
        checkpointer, restored = self.trainer.checkpointer, self._restored
        self.average = checkpointer.average = WeightAverage(checkpointer.model, self._decay)
        self.average.start(restored["trained"] if restored else None)
        self.average.num_updates = restored["num_updates"] if restored else 0
        if not restored and self.trainer.start_iter:
            logger.warning("the checkpoint has no average of weights: it starts at iteration %d", self.trainer.iter)
        self._restored = None

    def after_step(self) -> None:
        """Update the average, and let it take the place of the trained weights."""
        self.average.update()
        self.average.swap()

    def after_train(self) -> None:
        """Leave the average in the model."""
        if not self.average.is_swapped:
            self.average.swap()


class TrainOn(HookBase):
    """Give the model its trained weights back after an evaluation. Register it after the hooks that evaluate."""

    def __init__(self, averaging: AverageWeights) -> None:
        self._averaging = averaging

    def after_step(self) -> None:
        """End the exchange that :class:`AverageWeights` began."""
        self._averaging.average.swap()
