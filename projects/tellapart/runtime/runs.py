"""Runs of ``train_net.py`` that other programs start, and what is left of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from ..errors import InputError

TRAIN_NET = Path(__file__).resolve().parents[3] / "train_net.py"  # of the checkout that tools/ is in


def final_metrics(folder: Path, metric: str) -> dict[str, float] | None:
    """The line of ``metrics.json`` with a run's last evaluation, by name (``segm/AP``), if the run is finished and was
    evaluated with ``metric``; None otherwise."""
    if not (folder / "model_final.pth").is_file() or not (folder / "metrics.json").is_file():
        return None
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    found = [line for line in lines if metric in line]
    return found[-1] if found else None


def train(config: Path, folder: Path, seed: int, options: list[str], metric: str) -> dict[str, float]:
    """``final_metrics`` of a run. It is trained if it is not finished, from where it stopped, in a process of its own,
    and says so in one line; what that process prints goes to ``folder/console.txt``.

    Args:
        config: of the run.
        folder: its ``OUTPUT_DIR``.
        seed: its ``SEED``.
        options: more KEY VALUE pairs.
        metric: a name that the evaluation is to give.

    Raises:
        InputError: the run failed, or did not evaluate ``metric``; names the file that says why.
    """
    done = final_metrics(folder, metric)
    if done is not None:
        return done
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(TRAIN_NET), "--resume", "--config-file", str(config), *options]
    command += ["SEED", str(seed), "OUTPUT_DIR", str(folder)]
    start = time.monotonic()
    console = folder / "console.txt"
    with open(console, "a") as file:
        code = subprocess.run(command, stdout=file, stderr=file).returncode
    if code:
        raise InputError(f"{config} with seed {seed} failed (exit {code}): see {console}")
    done = final_metrics(folder, metric)
    if done is None:
        raise InputError(f"{config} with seed {seed} was not evaluated with {metric}: see {console}")
    print(f"{folder}: {metric} {done[metric]:.1f}, {(time.monotonic() - start) / 60:.1f} min", flush=True)
    return done
