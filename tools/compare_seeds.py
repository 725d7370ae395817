#!/usr/bin/env python
"""Compare configs over several seeds: train what is not trained yet, then print a table of means and deviations.

With --first, all configs are second stages: each seed's first stage is trained once, and the second stages start from
its final weights. A run that was interrupted continues from its last checkpoint, and a finished run is not repeated.

Examples:
    python tools/compare_seeds.py --output output/worms --seeds 1 2 3 --jobs 2 \\
        --first configs/quick/mask_rcnn/mask_rcnn_R_18_FPN_bbbc010.yaml \\
        --second configs/quick/mask_rcnn/mask_rcnn_R_18_FPN_bbbc010_longer.yaml \\
            configs/quick/semiconv/semiconv_R_18_FPN_bbbc010.yaml
    python tools/compare_seeds.py --output output/windows --jobs 2 --metrics mask_proposals/AR@100 \\
        --second configs/quick/instance_fcn/instance_fcn_R_18_shapes.yaml \\
            configs/quick/instance_fcn/instance_fcn_R_18_FPN_shapes.yaml
"""

from __future__ import annotations

import argparse
import os
import statistics
from functools import partial
from pathlib import Path

from tellapart.engine.config_checks import add_register_argument, find_config_file
from tellapart.engine.job_runner import in_parallel, train
from tellapart.errors import InputError, run_command
from tellapart.files import write_json


def run_seed(
    first: Path | None, second: list[Path], output: Path, seed: int, options: list[str], metrics: list[str],
    flags: list[str] | None = None,
) -> list[dict]:  # fmt: skip
    """Train all configs with one seed.

    Args:
        first: the config of the first stage; None: there is no first stage.
        second: the other configs.
        output: the folder for all runs.
        seed: the seed.
        options: KEY VALUE pairs for all runs.
        metrics: names of metrics that the evaluations must contain.
        flags: more flags of ``tellapart train``.

    Returns:
        The final metrics per config: first the first stage's, if there is one, then those of ``second``.
    """
    results = []
    if first is not None:
        folder = output / first.stem / f"seed_{seed}"
        results.append(train(first, folder, seed, options, metrics, flags))
        options = [*options, "MODEL.WEIGHTS", str(folder / "model_final.pth")]
    for config in second:
        results.append(train(config, output / config.stem / f"seed_{seed}", seed, options, metrics, flags))
    return results


def table(names: list[str], metrics: list[str], results: list[list[dict]]) -> str:
    """Return a Markdown table with mean and standard deviation over the seeds, one row per config.

    Args:
        names: the configs' names.
        metrics: names of the metrics to show.
        results: per seed, per config: the final metrics.
    """
    lines = [f"| config | {' | '.join(metrics)} | seeds |", "|---" * (len(metrics) + 2) + "|"]
    for i, name in enumerate(names):
        values = [[of_seed[i][metric] for of_seed in results] for metric in metrics]
        deviations = [statistics.stdev(v) if len(v) > 1 else float("nan") for v in values]
        cells = [f"{statistics.mean(v):.1f} ± {deviation:.1f}" for v, deviation in zip(values, deviations)]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(results)} |")
    return "\n".join(lines)


def main() -> None:
    """Train all runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", help="config of a first stage that all share (default: no first stage)")
    parser.add_argument("--second", nargs="+", required=True, help="configs to compare")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, required=True, help="folder for all runs and comparison.json")
    parser.add_argument("--jobs", type=int, default=1, help="seeds that run at the same time, then one thread each")
    parser.add_argument("--metrics", nargs="+", default=["segm/AP", "segm/AP50", "segm/AP75"])
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs for all runs")
    add_register_argument(parser)
    args = parser.parse_args()
    flags = [word for text in args.register for word in ("--register", text)]
    first = Path(find_config_file(args.first)) if args.first else None
    second = [Path(find_config_file(config)) for config in args.second]
    names = [config.stem for config in ([first] if first else []) + second]
    for flag, values in (("--first and --second", names), ("--seeds", args.seeds)):
        if len(set(values)) < len(values):
            raise InputError(f"{flag} are {values}, expected different ones: each has a folder of its own")
    if args.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"  # More threads than cores would slow down all runs.
        args.opts += ["DATALOADER.NUM_WORKERS", "0"]
    jobs = [partial(run_seed, first, second, args.output, seed, args.opts, args.metrics, flags) for seed in args.seeds]
    results = in_parallel(jobs, args.jobs)
    by_name = {name: [of_seed[i] for of_seed in results] for i, name in enumerate(names)}
    write_json(args.output / "comparison.json", {"seeds": args.seeds, "runs": by_name})
    print(table(names, args.metrics, results))


if __name__ == "__main__":
    run_command(main)
