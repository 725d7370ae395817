"""The training loop: iterations, and hooks that are called before and after them."""

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
    """Base class of hooks: code that the trainer calls at fixed points of training.

    The order is ``before_train``, then in each iteration ``before_step``, ``after_backward`` and ``after_step``, then
    ``after_train``. A hook whose ``state_dict`` is not empty also defines ``load_state_dict``.

    Attributes:
        trainer: the trainer that the hook is registered with.
    """

    trainer: TrainerBase = None

    def before_train(self) -> None:
        """Run before the first iteration."""

    def after_train(self) -> None:
        """Run after the last iteration, also if an iteration failed."""

    def before_step(self) -> None:
        """Run before each iteration."""

    def after_backward(self) -> None:
        """Run after the backward pass of each iteration."""

    def after_step(self) -> None:
        """Run after each iteration."""

    def state_dict(self) -> dict:
        """Return the state to store in checkpoints, {} for none."""
        return {}


class TrainerBase:
    """Run iterations and call hooks. A subclass defines `run_step`, one iteration.

    Attributes:
        iter: index of the current iteration.
        start_iter: index of the first iteration.
        max_iter: index after the last iteration.
        storage: the `EventStorage` that is open during training.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: list[HookBase | None]) -> None:
        """Add hooks, which are called in the order in which they were added. None is ignored."""
        for hook in hooks:
            if hook is None:
                continue
            assert isinstance(hook, HookBase), f"a hook must be a HookBase, got {hook!r}"
            # A weak reference, because a reference cycle would keep the memory until the garbage collector runs.
            hook.trainer = weakref.proxy(self)
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations from ``start_iter`` up to, but without, ``max_iter``."""
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
                self.iter = max_iter  # tells after_train hooks that training is complete
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def _call_hooks(self, method: str, update_storage: bool = False) -> None:
        if update_storage:
            self.storage.iter = self.iter
        for hook in self._hooks:
            getattr(hook, method)()

    def before_train(self) -> None:
        """Call this method of every hook."""
        self._call_hooks("before_train")

    def after_train(self) -> None:
        """Call this method of every hook. ``storage.iter`` is then the iteration at which training ended."""
        self._call_hooks("after_train", update_storage=True)

    def before_step(self) -> None:
        """Call this method of every hook. ``storage.iter`` is then the current iteration."""
        self._call_hooks("before_step", update_storage=True)

    def after_backward(self) -> None:
        """Call this method of every hook."""
        self._call_hooks("after_backward")

    def after_step(self) -> None:
        """Call this method of every hook."""
        self._call_hooks("after_step")

    def run_step(self) -> None:
        """Run one iteration. Defined by subclasses."""
        raise NotImplementedError(f"{type(self).__name__} must define run_step()")

    def state_dict(self) -> dict:
        """Return ``{"iteration": int, "hooks": {class name: state}}``.

        If there are several hooks of a class, only the state of the first one is included.
        """
        result = {"iteration": self.iter}
        hooks: dict[str, dict] = {}
        for hook in self._hooks:
            state = hook.state_dict()
            if state:
                hooks.setdefault(type(hook).__qualname__, state)
        if hooks:
            result["hooks"] = hooks
        return result

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore the iteration and the states of the hooks."""
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            hook = next((h for h in self._hooks if type(h).__qualname__ == name), None)
            if hook is None:
                logging.getLogger(__name__).warning(f"Cannot find the hook '{name}', its state_dict is ignored.")
            else:
                hook.load_state_dict(state)


class SimpleTrainer(TrainerBase):
    """Train one model with one data loader and one optimizer on the sum of its losses."""

    def __init__(self, model, data_loader, optimizer, gather_metric_period=1, zero_grad_before_forward=False):
        """
        Args:
            model: called with a batch; returns a dict of scalar losses, or one scalar loss. Put into training mode.
            data_loader: an iterable of batches. Its iterator is created in the first iteration.
            optimizer: a PyTorch optimizer.
            gather_metric_period: losses are averaged over all processes and stored every that many iterations.
            zero_grad_before_forward: whether to reset gradients before the forward pass. Default: after it.
        """
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self._data_loader_iter_obj = None  # created late, so that a resumed run can set the sampler's position first
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward

    @property
    def _data_loader_iter(self):
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def run_step(self) -> None:
        """Load a batch, run forward and backward pass, store the losses, and update the parameters."""
        assert self.model.training, f"[{type(self).__name__}] model was changed to eval mode!"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        loss_dict = self._forward(data)
        if isinstance(loss_dict, torch.Tensor):
            total_loss, loss_dict = loss_dict, {"total_loss": loss_dict}
        else:
            total_loss = sum(loss_dict.values())
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self._backward(total_loss)
        self.after_backward()
        self._write_metrics(loss_dict, data_time)
        self._update()

    def _forward(self, data) -> dict[str, torch.Tensor] | torch.Tensor:
        return self.model(data)

    def _backward(self, total_loss: torch.Tensor) -> None:
        total_loss.backward()

    def _update(self) -> None:
        self.optimizer.step()

    def _write_metrics(self, loss_dict: Mapping[str, torch.Tensor], data_time: float, prefix: str = "") -> None:
        if (self.iter + 1) % self.gather_metric_period == 0:
            self.write_metrics(loss_dict, data_time, self.iter, prefix)

    @staticmethod
    def write_metrics(loss_dict: Mapping[str, torch.Tensor], data_time: float, cur_iter: int, prefix: str = "") -> None:
        """Average the losses over all processes and store them in the main process.

        All processes must call it.

        Args:
            loss_dict: scalar losses by name.
            data_time: seconds for loading the batch. That of the slowest process is stored.
            cur_iter: the current iteration.
            prefix: put before the name "total_loss".

        Raises:
            FloatingPointError: the sum of the losses is infinite or NaN.
        """
        metrics = {k: v.detach().cpu().item() for k, v in loss_dict.items()}
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        gathered = comm.gather({**metrics, "data_time": data_time})
        if not gathered:
            return
        storage.put_scalar("data_time", max(m.pop("data_time") for m in gathered), cur_iter=cur_iter)
        metrics = {k: float(np.mean([m[k] for m in gathered])) for k in gathered[0]}
        total_loss = sum(metrics.values())
        if not np.isfinite(total_loss):
            raise FloatingPointError(f"Loss became infinite or NaN at iteration={cur_iter}!\nloss_dict = {metrics}")
        storage.put_scalar(f"{prefix}total_loss", total_loss, cur_iter=cur_iter)
        if len(metrics) > 1:
            storage.put_scalars(cur_iter=cur_iter, **metrics)

    def state_dict(self) -> dict:
        """Return the state of the loop and of the optimizer."""
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore the state of the loop and of the optimizer."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])


class AMPTrainer(SimpleTrainer):
    """Train like `SimpleTrainer` with automatic mixed precision. Needs CUDA."""

    def __init__(
        self, model, data_loader, optimizer, gather_metric_period=1, zero_grad_before_forward=False, grad_scaler=None,
        precision: torch.dtype = torch.float16, log_grad_scaler: bool = False,
    ) -> None:  # fmt: skip
        """
        Args:
            model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward: see `SimpleTrainer`.
            grad_scaler: a ``torch.amp.GradScaler``. Created here by default.
            precision: the dtype of autocast.
            log_grad_scaler: whether to store the scale as "[metric]grad_scaler".
        """
        super().__init__(model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward)
        self.grad_scaler = torch.amp.GradScaler("cuda") if grad_scaler is None else grad_scaler
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def _forward(self, data) -> dict[str, torch.Tensor] | torch.Tensor:
        assert torch.cuda.is_available(), "[AMPTrainer] CUDA is required for AMP training!"
        with torch.autocast("cuda", dtype=self.precision):
            return self.model(data)

    def _backward(self, total_loss: torch.Tensor) -> None:
        self.grad_scaler.scale(total_loss).backward()
        if self.log_grad_scaler:
            self.storage.put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())

    def _update(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict:
        """Return the state of `SimpleTrainer` and of the gradient scaler."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore the state of `SimpleTrainer` and of the gradient scaler."""
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
