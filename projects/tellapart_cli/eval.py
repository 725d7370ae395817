"""Evaluate a trained model; the flags are those of `tellapart train`.

examples:
  tellapart eval --config-file CONFIG MODEL.WEIGHTS output/model_final.pth
  tellapart eval --config-file CONFIG --register mine=annotations.json:images DATASETS.TEST "('mine',)"
"""

from __future__ import annotations

import argparse

from . import train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``tellapart train``; ``--eval-only`` is always on."""
    train.add_arguments(parser)
    parser.set_defaults(eval_only=True)


def run(args: argparse.Namespace) -> None:
    """Evaluate."""
    train.run(args)
