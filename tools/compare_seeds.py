#!/usr/bin/env python
"""Configs side by side over several seeds, alone or as second stages of one that they share: trains all that is missing
and prints a table.

Each seed's first stage, if there is one, is trained once, and each second stage starts from its checkpoint. A run that
was stopped goes on where it stopped, one that is done is not repeated.

Examples:
    python tools/compare_seeds.py --output output/worms --seeds 1 2 3 --jobs 2 \\
        --first configs/quick/mask_rcnn/mask_rcnn_R_18_FPN_bbbc010.yaml \\
        --second configs/quick/mask_rcnn/mask_rcnn_R_18_FPN_bbbc010_longer.yaml configs/quick/semiconv/semiconv_R_18_FPN_bbbc010.yaml
    python tools/compare_seeds.py --output output/windows --jobs 2 --metrics mask_proposals/AR@100 \\
        --second configs/quick/instance_fcn/instance_fcn_R_18_shapes.yaml configs/quick/instance_fcn/instance_fcn_R_18_FPN_shapes.yaml
"""

from __future__ import annotations

import argparse
import os
import statistics
from functools import partial
from pathlib import Path

from tellapart.engine.job_runner import in_parallel, train
from tellapart.errors import InputError, run_command
from tellapart.files import write_json


def run_seed(
    first: Path | None, second: list[Path], output: Path, seed: int, options: list[str], metrics: list[str]
) -> list[dict]:
    """Metrics of the first stage, if there is one, and of each second one from its checkpoint, for one seed."""
    found = []
    if first is not None:
        start = output / first.stem / f"seed_{seed}"
        found.append(train(first, start, seed, options, metrics))
        options = [*options, "MODEL.WEIGHTS", str(start / "model_final.pth")]
    return found + [train(c, output / c.stem / f"seed_{seed}", seed, options, metrics) for c in second]


def table(names: list[str], metrics: list[str], found: list[list[dict]]) -> str:
    """Markdown: of each config (inner lists) the mean over seeds (outer list), and their standard deviation."""
    lines = [f"| config | {' | '.join(metrics)} | seeds |", "|---" * (len(metrics) + 2) + "|"]
    for i, name in enumerate(names):
        values = [[of_seed[i][metric] for of_seed in found] for metric in metrics]
        spread = [statistics.stdev(v) if len(v) > 1 else float("nan") for v in values]
        cells = [f"{statistics.mean(v):.1f} ± {s:.1f}" for v, s in zip(values, spread)]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(found)} |")
    return "\n".join(lines)


def main() -> None:
    """Read the flags, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=Path, help="config of the stage that all share; default: none")
    parser.add_argument("--second", type=Path, nargs="+", required=True, help="configs to compare")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, required=True, help="folder for all runs and comparison.json")
    parser.add_argument("--jobs", type=int, default=1, help="seeds to run at the same time, one thread each if above 1")
    parser.add_argument("--metrics", nargs="+", default=["segm/AP", "segm/AP50", "segm/AP75"])
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs for all runs")
    args = parser.parse_args()
    configs = [*([args.first] if args.first else []), *args.second]
    names = [config.stem for config in configs]
    for flag, values in (("--first and --second", names), ("--seeds", args.seeds)):
        if len(set(values)) < len(values):
            raise InputError(f"{flag} are {values}: each wants a folder of its own")
    for config in configs:
        if not config.is_file():
            raise InputError(f"config file {config} does not exist")
    if args.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"  # threads of several runs would wait for each other
        args.opts += ["DATALOADER.NUM_WORKERS", "0"]
    jobs = [
        partial(run_seed, args.first, args.second, args.output, seed, args.opts, args.metrics) for seed in args.seeds
    ]
    found = in_parallel(jobs, args.jobs)
    by_name = {name: [of_seed[i] for of_seed in found] for i, name in enumerate(names)}
    write_json(args.output / "comparison.json", {"seeds": args.seeds, "runs": by_name})
    print(table(names, args.metrics, found))


if __name__ == "__main__":
    run_command(main)
