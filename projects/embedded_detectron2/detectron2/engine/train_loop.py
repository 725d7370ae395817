"""The training loop: something that runs steps, and hooks around them."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Mapping

import numpy as np
import torch

from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage

__all__ = ["HookBase", "TrainerBase", "SimpleTrainer", "AMPTrainer"]


class HookBase:
    """What is called around training and its steps; ``self.trainer`` is the trainer it was registered with.

    ``before_train``, then for every iteration ``before_step``, the step (within it ``after_backward``) and
    ``after_step``, then ``after_train``. A hook with something to remember has ``load_state_dict`` too.
    """

    trainer: TrainerBase = None

    def before_train(self):
        """Called before the first iteration."""

    def after_train(self):
        """Called after the last iteration, also if one failed."""

    def before_step(self):
        """Called before each iteration; should take no time."""

    def after_backward(self):
        """Called after the backward pass of each iteration."""

    def after_step(self):
        """Called after each iteration."""

    def state_dict(self) -> dict:
        """What a checkpoint should remember; empty for nothing."""
        return {}


class TrainerBase:
    """A loop over iterations with hooks. Subclasses say in `run_step` what an iteration is.

    Attributes:
        iter: the current iteration; start_iter: the first; max_iter: the end (excluded).
        storage: the `EventStorage` open during training.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: list[HookBase | None]) -> None:
        """Append hooks; they are called in this order. None is skipped."""
        for h in hooks:
            if h is None:
                continue
            assert isinstance(h, HookBase), f"a hook must be a HookBase, got {h!r}"
            h.trainer = weakref.proxy(self)  # the trainer owns its hooks: no cycle, so that it is freed at once
            self._hooks.append(h)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations from ``start_iter`` up to ``max_iter`` (excluded)."""
        logger = logging.getLogger(__name__)
        logger.info(f"Starting training from iteration {start_iter}")
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter = max_iter  # lets hooks tell a finished training from a broken one
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def before_train(self):
        """Call the hooks."""
        for h in self._hooks:
            h.before_train()

    def after_train(self):
        """Call the hooks, at the iteration that was reached."""
        self.storage.iter = self.iter
        for h in self._hooks:
            h.after_train()

    def before_step(self):
        """Call the hooks, at the current iteration."""
        self.storage.iter = self.iter
        for h in self._hooks:
            h.before_step()

    def after_backward(self):
        """Call the hooks."""
        for h in self._hooks:
            h.after_backward()

    def after_step(self):
        """Call the hooks."""
        for h in self._hooks:
            h.after_step()

    def run_step(self):
        """One iteration."""
        raise NotImplementedError(f"{type(self).__name__} must define run_step()")

    def state_dict(self) -> dict:
        """{"iteration": the current one, "hooks": {class name: state}}; of two hooks of a class the first counts."""
        result = {"iteration": self.iter}
        hooks: dict[str, dict] = {}
        for h in self._hooks:
            state = h.state_dict()
            if state:
                hooks.setdefault(type(h).__qualname__, state)
        if hooks:
            result["hooks"] = hooks
        return result

    def load_state_dict(self, state_dict: dict) -> None:
        """Set the iteration and the hooks' states."""
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            hook = next((h for h in self._hooks if type(h).__qualname__ == name), None)
            if hook is None:
                logging.getLogger(__name__).warning(f"Cannot find the hook '{name}', its state_dict is ignored.")
            else:
                hook.load_state_dict(state)


class SimpleTrainer(TrainerBase):
    """One model, one loader, one optimizer, losses added up."""

    def __init__(self, model, data_loader, optimizer, gather_metric_period=1, zero_grad_before_forward=False):
        """
        Args:
            model: a module that makes a batch into {name: scalar loss}, or one loss; set to training mode here.
            data_loader: an iterable of batches, iterated from the first step on.
            optimizer: a torch optimizer.
            gather_metric_period: every so many iterations losses of all processes are averaged and stored.
            zero_grad_before_forward: clear gradients before the forward pass rather than after it.
        """
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self._data_loader_iter_obj = None  # made at the first step: until then a resumed sampler can be positioned
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward

    @property
    def _data_loader_iter(self):
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def _next_batch(self):
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        return data, time.perf_counter() - start

    @staticmethod
    def _total(loss_dict) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        if isinstance(loss_dict, torch.Tensor):
            return {"total_loss": loss_dict}, loss_dict
        return loss_dict, sum(loss_dict.values())

    def run_step(self) -> None:
        """Load a batch, forward, backward, update; store losses and the time that loading took."""
        assert self.model.training, f"[{type(self).__name__}] model was changed to eval mode!"
        data, data_time = self._next_batch()
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        loss_dict, losses = self._total(self.model(data))
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses.backward()
        self.after_backward()
        self._write_metrics(loss_dict, data_time)
        self.optimizer.step()

    def _write_metrics(self, loss_dict: Mapping[str, torch.Tensor], data_time: float, prefix: str = "") -> None:
        if (self.iter + 1) % self.gather_metric_period == 0:
            self.write_metrics(loss_dict, data_time, self.iter, prefix)

    @staticmethod
    def write_metrics(
        loss_dict: Mapping[str, torch.Tensor], data_time: float, cur_iter: int, prefix: str = ""
    ) -> None:
        """Average the losses over processes and store them on the main one; all processes must call it.

        Args:
            loss_dict: scalar losses by name.
            data_time: seconds that loading took; the slowest process's is stored.
            cur_iter: the iteration.
            prefix: put before "total_loss".

        Raises:
            FloatingPointError: the sum of the losses is not finite; names the iteration and the losses.
        """
        metrics = {k: v.detach().cpu().item() for k, v in loss_dict.items()}
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        gathered = comm.gather({**metrics, "data_time": data_time})
        if not gathered:
            return
        storage.put_scalar("data_time", max(m.pop("data_time") for m in gathered), cur_iter=cur_iter)
        metrics = {k: float(np.mean([m[k] for m in gathered])) for k in gathered[0]}
        total = sum(metrics.values())
        if not np.isfinite(total):
            raise FloatingPointError(
                f"Loss became infinite or NaN at iteration={cur_iter}!\nloss_dict = {metrics}"
            )
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(metrics) > 1:
            storage.put_scalars(cur_iter=cur_iter, **metrics)

    def state_dict(self) -> dict:
        """The loop's state and the optimizer's."""
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Set the loop's state and the optimizer's."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])


class AMPTrainer(SimpleTrainer):
    """`SimpleTrainer` in mixed precision; needs CUDA."""

    def __init__(
        self,
        model,
        data_loader,
        optimizer,
        gather_metric_period=1,
        zero_grad_before_forward=False,
        grad_scaler=None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
    ):
        """
        Args:
            grad_scaler: a ``torch.amp.GradScaler``; made here by default.
            precision: what computations are cast to.
            log_grad_scaler: whether to store its scale under "[metric]grad_scaler".
        """
        super().__init__(model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward)
        self.grad_scaler = torch.amp.GradScaler("cuda") if grad_scaler is None else grad_scaler
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def run_step(self) -> None:
        """As `SimpleTrainer`, with the forward pass under autocast and the loss scaled."""
        assert self.model.training, "[AMPTrainer] model was changed to eval mode!"
        assert torch.cuda.is_available(), "[AMPTrainer] CUDA is required for AMP training!"
        data, data_time = self._next_batch()
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        with torch.autocast("cuda", dtype=self.precision):
            loss_dict, losses = self._total(self.model(data))
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self.grad_scaler.scale(losses).backward()
        if self.log_grad_scaler:
            self.storage.put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())
        self.after_backward()
        self._write_metrics(loss_dict, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict:
        """`SimpleTrainer`'s and the scaler's."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Set `SimpleTrainer`'s state and the scaler's."""
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
