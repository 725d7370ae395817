"""A toy model, endless data and a small ResNet for the tests of the engine."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path

import detectron2
import torch
from detectron2.config import get_cfg
from torch import nn

#: Whether the embedded detectron2 is tested. A few features exist only there.
EMBEDDED = "embedded_detectron2" in Path(detectron2.__file__).parts


class Toy(nn.Module):
    """A linear layer with two losses. The input is (N, 2)."""

    def __init__(self, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.fc = nn.Linear(2, 1)
        with torch.no_grad():
            self.fc.weight.copy_(torch.randn(1, 2, generator=generator))
            self.fc.bias.zero_()

    def forward(self, x):
        y = self.fc(x)
        return {"loss_a": (y**2).mean(), "loss_b": (y - 1).abs().mean()}


class Endless:
    """Endless batches that depend only on their index. Counts how many iterators were created."""

    def __init__(self, start: int = 0):
        self.start, self.iterators = start, 0

    def __iter__(self):
        self.iterators += 1
        position = self.start
        while True:
            yield torch.randn(4, 2, generator=torch.Generator().manual_seed(position))
            position += 1


def small_resnet(depth: int = 50, norm: str = "FrozenBN", **resnets) -> nn.Module:
    """Build a narrow ResNet without FPN."""
    from detectron2.modeling import build_backbone

    cfg = get_cfg()
    node = cfg.MODEL.RESNETS
    node.DEPTH, node.NORM, node.OUT_FEATURES = depth, norm, ["res3"]
    node.STEM_OUT_CHANNELS, node.WIDTH_PER_GROUP, node.RES2_OUT_CHANNELS = 4, 4, 4 if depth == 18 else 16
    for key, value in resnets.items():
        node[key] = value
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    return build_backbone(cfg)


@contextmanager
def logged(level: int = logging.DEBUG):
    """Collect (level name, message) of what detectron2 and fvcore log inside the ``with`` block."""
    records: list[tuple[str, str]] = []
    handler = logging.Handler(level)
    handler.emit = lambda record: records.append((record.levelname, record.getMessage()))
    loggers = [logging.getLogger("detectron2"), logging.getLogger("fvcore")]
    levels = [x.level for x in loggers]
    for x in loggers:
        x.addHandler(handler)
        x.setLevel(logging.DEBUG)
    try:
        yield records
    finally:
        for x, old in zip(loggers, levels):
            x.removeHandler(handler)
            x.setLevel(old)
