#!/usr/bin/env python
"""Trains one config, then a second one from the first one's final weights; both go on where they were stopped.

Example:
    python tools/two_stages.py configs/MaskRCNN/mask_rcnn_R_50_FPN_bbbc010.yaml \\
        configs/SemiConv/semiconv_R_50_FPN_bbbc010.yaml --num-gpus 8
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from tellapart.engine.config_checks import load_config
from tellapart.engine.job_runner import TRAIN_NET
from tellapart.errors import InputError, run_command


def main() -> None:
    """Read the flags, run one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", help="config of the first stage")
    parser.add_argument("second", help="config of the second stage; its MODEL.WEIGHTS becomes the first one's result")
    parser.add_argument("--num-gpus", default="1", help="as train_net.py has it")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs for both stages")
    args = parser.parse_args()
    folders = [load_config(config, args.opts).OUTPUT_DIR for config in (args.first, args.second)]
    if os.path.abspath(folders[0]) == os.path.abspath(folders[1]):
        raise InputError(f"OUTPUT_DIR of both stages is {folders[0]}: the second would go on with the first's run")
    weights = ["MODEL.WEIGHTS", os.path.join(folders[0], "model_final.pth")]
    for config, more in ((args.first, []), (args.second, weights)):
        command = [sys.executable, str(TRAIN_NET), "--resume", "--num-gpus", args.num_gpus, "--config-file", config]
        code = subprocess.run([*command, *args.opts, *more]).returncode
        if code:
            raise InputError(f"{config} ended with exit code {code}; the same command goes on from its last checkpoint")


if __name__ == "__main__":
    run_command(main)
