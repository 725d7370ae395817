#!/usr/bin/env python
"""Train one config, then a second one that starts from the final weights of the first one.

A stage that was interrupted continues from its last checkpoint.

Example:
    python tools/two_stages.py configs/MaskRCNN/mask_rcnn_R_50_FPN_bbbc010.yaml \\
        configs/SemiConv/semiconv_R_50_FPN_bbbc010.yaml --num-gpus 8
    python tools/two_stages.py FIRST SECOND --register mine=train.json:images --opts DATASETS.TRAIN "('mine',)"
"""

from __future__ import annotations

import argparse
import os

from tellapart.engine.config_checks import add_register_argument, load_config
from tellapart.engine.job_runner import in_parallel, run_training
from tellapart.errors import InputError, run_command


def run_stages(first: str, second: str, weights: str, flags: list[str], options: list[str]) -> None:
    """Train both stages, one after the other.

    Args:
        first: the config of the first stage.
        second: the config of the second stage.
        weights: the final checkpoint of the first stage.
        flags: of ``tellapart train``, for both stages.
        options: KEY VALUE pairs for both stages.

    Raises:
        InputError: a stage failed.
    """
    for config, more in ((first, []), (second, ["MODEL.WEIGHTS", weights])):
        code = run_training(config, [*options, *more], flags)
        if code:
            raise InputError(f"{config} failed (exit {code}); the same command continues from its last checkpoint")


def main() -> None:
    """Check both configs and train both stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", help="config of the first stage")
    parser.add_argument("second", help="config of the second stage; its MODEL.WEIGHTS is replaced")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of GPUs per machine")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs for both stages")
    add_register_argument(parser)
    args = parser.parse_args()
    flags = ["--num-gpus", str(args.num_gpus), *(word for text in args.register for word in ("--register", text))]
    folders = [load_config(config, args.opts).OUTPUT_DIR for config in (args.first, args.second)]
    if os.path.abspath(folders[0]) == os.path.abspath(folders[1]):
        raise InputError(f"OUTPUT_DIR of both stages is {folders[0]}, expected two folders")
    weights = os.path.join(folders[0], "model_final.pth")
    in_parallel([lambda: run_stages(args.first, args.second, weights, flags, args.opts)], 1)


if __name__ == "__main__":
    run_command(main)
