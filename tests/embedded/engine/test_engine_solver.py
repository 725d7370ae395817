"""Learning-rate schedules against formulas, parameter groups of the optimizer, and gradient clipping."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.solver import build_lr_scheduler, build_optimizer, get_default_optimizer_params
from torch import nn

LR = 0.02


def make_cfg(**solver):
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR = LR
    for key, value in solver.items():
        node = cfg.SOLVER
        *path, last = key.split("__")
        for name in path:
            node = node[name]
        node[last] = value
    return cfg


def curve(cfg, steps):
    """Return the learning rates of two parameter groups, the second three times the first."""
    params = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [p], "lr": f * cfg.SOLVER.BASE_LR} for p, f in zip(params, (1, 3))]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(steps):
        rates.append([g["lr"] for g in optimizer.param_groups])
        optimizer.step()
        if len(rates) < steps:
            scheduler.step()
    return rates


def warm(schedule, warmup, factor, rescale=False, method="linear"):
    """Add a warm-up of length ``warmup`` to a schedule, a function of the progress in [0, 1]."""

    def f(x):
        if x >= warmup:
            return schedule((x - warmup) / (1 - warmup)) if rescale else schedule(x)
        end = schedule(0) if rescale else schedule(warmup)
        start = factor * schedule(0)
        return start if method == "constant" else start + (end - start) * x / warmup

    return f


def steps_at(*fractions, gamma=0.1):
    return lambda x: gamma ** sum(x >= f - 1e-9 for f in fractions)


def cosine(end=0.0):
    return lambda x: end + (1 - end) * 0.5 * (1 + math.cos(math.pi * x))


SCHEDULES = {
    "steps": ({"STEPS": (60, 80), "WARMUP_ITERS": 10}, warm(steps_at(0.6, 0.8), 0.1, 0.001)),
    "no warm-up": ({"STEPS": (60,), "WARMUP_ITERS": 0, "GAMMA": 0.5}, steps_at(0.6, gamma=0.5)),
    "step in the warm-up": (
        {"STEPS": (20,), "WARMUP_ITERS": 40, "WARMUP_FACTOR": 0.1},
        warm(steps_at(0.2), 0.4, 0.1),
    ),
    "constant warm-up": (
        {"STEPS": (60,), "WARMUP_ITERS": 10, "WARMUP_METHOD": "constant"},
        warm(steps_at(0.6), 0.1, 0.001, method="constant"),
    ),
    "beyond the end": ({"STEPS": (60, 130), "WARMUP_ITERS": 0}, steps_at(0.6)),
    "cosine": ({"LR_SCHEDULER_NAME": "WarmupCosineLR", "WARMUP_ITERS": 10}, warm(cosine(), 0.1, 0.001)),
    "cosine to an end, rescaled": (
        {"LR_SCHEDULER_NAME": "WarmupCosineLR", "BASE_LR_END": 0.002, "WARMUP_ITERS": 20, "RESCALE_INTERVAL": True},
        warm(cosine(0.1), 0.2, 0.001, rescale=True),
    ),
    "equal distances": (
        {"LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR", "NUM_DECAYS": 4, "GAMMA": 0.3, "WARMUP_ITERS": 10},
        warm(steps_at(0.2, 0.4, 0.6, 0.8, gamma=0.3), 0.1, 0.001),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule(name):
    solver, expected = SCHEDULES[name]
    rates = curve(make_cfg(MAX_ITER=100, **solver), 100)
    for i in (0, 1, 5, 9, 10, 11, 19, 20, 21, 39, 40, 59, 60, 61, 79, 80, 99):
        assert rates[i] == pytest.approx([LR * expected(i / 100), 3 * LR * expected(i / 100)], rel=1e-6), i


def test_schedule_continues_from_its_state():
    cfg = make_cfg(MAX_ITER=30, STEPS=(20,), WARMUP_ITERS=5)

    def fresh():
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
        return optimizer, build_lr_scheduler(cfg, optimizer)

    def run(optimizer, scheduler, n):
        rates = []
        for _ in range(n):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return rates

    whole = run(*fresh(), 29)
    first, scheduler = fresh()
    run(first, scheduler, 12)
    second, resumed = fresh()
    assert set(scheduler.state_dict()) == {"base_lrs", "last_epoch"}
    resumed.load_state_dict(scheduler.state_dict())
    second.load_state_dict(first.state_dict())
    assert run(second, resumed, 17) == whole[12:]


@pytest.mark.parametrize(
    "solver", [{"LR_SCHEDULER_NAME": "Nope"}, {"WARMUP_METHOD": "nope"}, {"MAX_ITER": 100, "STEPS": (100,)}]
)
def test_schedule_bad_config(solver):
    with pytest.raises(ValueError, match="Nope|nope|100"):
        curve(make_cfg(**solver), 1)


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.free = nn.Parameter(torch.ones(2))
        self.conv = nn.Conv2d(2, 3, 1)
        self.bn = nn.BatchNorm2d(3)
        self.gn = nn.GroupNorm(1, 3)
        self.ln = nn.LayerNorm(3)
        self.fc = nn.Linear(3, 2)
        self.again = self.fc
        self.still = nn.Linear(2, 2).requires_grad_(False)


NORMS = [f"{m}.{p}" for m in ("bn", "gn", "ln") for p in ("weight", "bias")]
ALL = ["free", "conv.weight", "conv.bias", *NORMS, "fc.weight", "fc.bias"]


def by_name(model, groups, key):
    names = {id(p): n for n, p in model.named_parameters()}
    flat = [(names[id(p)], g.get(key)) for g in groups for p in g["params"]]
    assert sorted(n for n, _ in flat) == sorted(ALL)  # each trainable parameter once
    return dict(flat)


@pytest.mark.parametrize(
    ("solver", "lr", "decay"),
    [
        ({}, lambda n: LR, lambda n: 0.0 if n in NORMS else 1e-4),
        ({"WEIGHT_DECAY_NORM": 0.3}, lambda n: LR, lambda n: 0.3 if n in NORMS else 1e-4),
        (
            {"BIAS_LR_FACTOR": 2.0, "WEIGHT_DECAY_BIAS": 0.5},
            lambda n: LR * (1 + n.endswith("bias")),
            lambda n: 0.5 if n.endswith("bias") else 0.0 if n in NORMS else 1e-4,
        ),
    ],
)
def test_optimizer_groups(solver, lr, decay):
    model = Parts()
    optimizer = build_optimizer(make_cfg(**solver), model)
    assert by_name(model, optimizer.param_groups, "lr") == {n: lr(n) for n in ALL}
    assert by_name(model, optimizer.param_groups, "weight_decay") == {n: decay(n) for n in ALL}
    assert len(optimizer.param_groups) == len({(lr(n), decay(n)) for n in ALL})
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(g["momentum"] == 0.9 and not g["nesterov"] for g in optimizer.param_groups)


def test_optimizer_params_overrides_and_factor():
    model = Parts()
    groups = get_default_optimizer_params(
        model,
        base_lr=0.1,
        lr_factor_func=lambda n: 0.5 if n.startswith("conv") else 1.0,
        overrides={"bias": {"lr": 7.0}, "free": {"momentum": 0.3}},
    )
    expected = {n: 7.0 if n.endswith("bias") else 0.05 if n == "conv.weight" else 0.1 for n in ALL}
    assert by_name(model, groups, "lr") == pytest.approx(expected)
    assert by_name(model, groups, "momentum") == {n: 0.3 if n == "free" else None for n in ALL}
    assert set(by_name(model, groups, "weight_decay").values()) == {None}


@pytest.mark.parametrize(
    "options",
    [
        {"bias_lr_factor": 2.0},
        {"lr_factor_func": lambda n: 1.0},
        {"weight_decay_bias": 0.1, "overrides": {"bias": {"lr": 1.0}}},
    ],
)
def test_optimizer_params_conflicts(options):
    with pytest.raises(ValueError, match="requires base_lr|Conflicting"):
        get_default_optimizer_params(Parts(), **options)


@pytest.mark.parametrize(
    ("kind", "norm_type", "clipped"),
    [
        ("value", 2.0, lambda g: g.clamp(-0.5, 0.5)),
        ("norm", 2.0, lambda g: g * min(1.0, 0.5 / g.norm().item())),
        ("norm", 1.0, lambda g: g * min(1.0, 0.5 / g.abs().sum().item())),
        ("norm", math.inf, lambda g: g * min(1.0, 0.5 / g.abs().max().item())),
    ],
)
def test_clipping(kind, norm_type, clipped):
    cfg = make_cfg(
        CLIP_GRADIENTS__ENABLED=True,
        CLIP_GRADIENTS__CLIP_TYPE=kind,
        CLIP_GRADIENTS__CLIP_VALUE=0.5,
        CLIP_GRADIENTS__NORM_TYPE=norm_type,
        MOMENTUM=0.0,
        WEIGHT_DECAY=0.0,
    )
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    optimizer = build_optimizer(cfg, model)
    expected = []
    for i, p in enumerate(model.parameters()):
        p.grad = torch.randn(p.shape) * (0.01 if i == 0 else 2.0)  # the first one is not clipped
        expected.append(p.detach() - LR * clipped(p.grad))
    optimizer.step()
    for p, e in zip(model.parameters(), expected):
        torch.testing.assert_close(p.detach(), e)
    assert isinstance(optimizer, torch.optim.SGD)


def test_clipping_unknown_type():
    cfg = make_cfg(CLIP_GRADIENTS__ENABLED=True, CLIP_GRADIENTS__CLIP_TYPE="nope")
    with pytest.raises(ValueError, match="nope"):
        build_optimizer(cfg, nn.Linear(1, 1))
