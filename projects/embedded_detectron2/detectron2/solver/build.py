"""Build the optimizer and the learning rate schedule that ``cfg.SOLVER`` asks for."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from torch import nn

from detectron2.config import CfgNode
from detectron2.solver.lr_scheduler import LRMultiplier, WarmupParamScheduler

_NORMS = (
    nn.modules.batchnorm._BatchNorm,  # SyncBatchNorm too
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
)


def maybe_add_gradient_clipping(cfg: CfgNode, optimizer: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Return the optimizer class, or a subclass that clips gradients.

    With ``SOLVER.CLIP_GRADIENTS.ENABLED`` it clips before each step: with ``CLIP_TYPE`` "value" the elements of each
    gradient to ``CLIP_VALUE``, with "norm" the ``NORM_TYPE`` norm of each gradient (not of the whole model's).

    Raises:
        ValueError: ``CLIP_TYPE`` has another value.
    """
    clip = copy.deepcopy(cfg.SOLVER.CLIP_GRADIENTS)
    if not clip.ENABLED:
        return optimizer
    if clip.CLIP_TYPE not in ("value", "norm"):
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is '{clip.CLIP_TYPE}', expected 'value' or 'norm'")

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if clip.CLIP_TYPE == "value":
                    nn.utils.clip_grad_value_(p, clip.CLIP_VALUE)
                else:
                    nn.utils.clip_grad_norm_(p, clip.CLIP_VALUE, clip.NORM_TYPE)
        return super(clipping, self).step(closure)

    clipping = type(optimizer.__name__ + "WithGradientClip", (optimizer,), {"step": step})
    return clipping


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build SGD with momentum and clipping, for the groups of `get_default_optimizer_params`."""
    solver = cfg.SOLVER
    params = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    return maybe_add_gradient_clipping(cfg, torch.optim.SGD)(
        params,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
        foreach=True,
    )


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer: each trainable parameter once, grouped by equal options.

    Args:
        model: model whose parameters are optimized.
        base_lr: learning rate of every group. None leaves it to the optimizer.
        weight_decay: weight decay of every group. None leaves it to the optimizer.
        weight_decay_norm: weight decay of the parameters of normalization layers.
        bias_lr_factor: factor on ``base_lr`` for parameters called "bias".
        weight_decay_bias: weight decay of parameters called "bias", also of those in normalization layers.
        lr_factor_func: returns the factor on ``base_lr`` for a parameter's full name.
        overrides: options for parameters by the last part of their name. They replace all of the above.

    Raises:
        ValueError: a factor is given without ``base_lr``, or ``overrides`` has "bias" besides the arguments for biases.
    """
    overrides = dict(overrides or {})
    defaults = {k: v for k, v in (("lr", base_lr), ("weight_decay", weight_decay)) if v is not None}
    bias = {}
    if bias_lr_factor is not None and bias_lr_factor != 1.0:
        if base_lr is None:
            raise ValueError("bias_lr_factor requires base_lr")
        bias["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        bias["weight_decay"] = weight_decay_bias
    if bias:
        if "bias" in overrides:
            raise ValueError("Conflicting overrides for 'bias'")
        overrides["bias"] = bias
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func requires base_lr")

    groups: dict[tuple, dict[str, Any]] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            if not p.requires_grad or p in seen:
                continue
            seen.add(p)
            options = dict(defaults)
            if isinstance(module, _NORMS) and weight_decay_norm is not None:
                options["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                options["lr"] *= lr_factor_func(f"{module_name}.{name}")
            options.update(overrides.get(name, {}))
            groups.setdefault(tuple(sorted(options.items())), {**options, "params": []})["params"].append(p)
    return list(groups.values())


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Build the schedule ``SOLVER.LR_SCHEDULER_NAME``, which starts with a warm-up.

    "WarmupMultiStepLR" multiplies the learning rate by ``GAMMA`` at each iteration of ``STEPS``. "WarmupCosineLR" lets
    it fall along half a cosine to ``BASE_LR_END``. "WarmupStepWithFixedGammaLR" multiplies it by ``GAMMA``
    ``NUM_DECAYS`` times, at equal distances.

    Raises:
        ValueError: the schedule has another name.
    """
    solver = cfg.SOLVER
    name, max_iter = solver.LR_SCHEDULER_NAME, solver.MAX_ITER
    if name == "WarmupMultiStepLR":
        steps = [x for x in solver.STEPS if x <= max_iter]
        if len(steps) != len(solver.STEPS):
            logging.getLogger(__name__).warning(
                "SOLVER.STEPS contains values larger than SOLVER.MAX_ITER. These values will be ignored."
            )
        values = [solver.GAMMA**k for k in range(len(steps) + 1)]
        schedule = MultiStepParamScheduler(values, num_updates=max_iter, milestones=steps)
    elif name == "WarmupCosineLR":
        end = solver.BASE_LR_END / solver.BASE_LR
        assert 0.0 <= end <= 1.0, f"SOLVER.BASE_LR_END {solver.BASE_LR_END} is not in [0, BASE_LR {solver.BASE_LR}]"
        schedule = CosineParamScheduler(1, end)
    elif name == "WarmupStepWithFixedGammaLR":
        parts = solver.NUM_DECAYS + 1
        schedule = MultiStepParamScheduler(
            [solver.GAMMA**k for k in range(parts)],
            num_updates=max_iter,
            milestones=[-(-k * max_iter // parts) for k in range(1, parts)],  # rounded up
        )
    else:
        raise ValueError(f"Unknown LR scheduler: {name}")
    schedule = WarmupParamScheduler(
        schedule,
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / max_iter, 1.0),
        solver.WARMUP_METHOD,
        solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=max_iter)
