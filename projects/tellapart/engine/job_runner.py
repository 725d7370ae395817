"""Runs of ``train_net.py`` that other programs start, and what is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TextIO, TypeVar

import yaml

from ..errors import InputError
from .config_checks import load_config

TRAIN_NET = Path(__file__).resolve().parents[3] / "train_net.py"  # of the checkout that tools/ is in
# a run's figures do not depend on these
_INDIFFERENT = ("OUTPUT_DIR", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS")

T = TypeVar("T")


def final_metrics(folder: Path, metrics: list[str]) -> dict[str, float] | None:
    """The line of ``metrics.json`` with a run's last evaluation, by name (``segm/AP``), if the run is finished and was
    evaluated with all ``metrics``; None otherwise."""
    if not (folder / "model_final.pth").is_file() or not (folder / "metrics.json").is_file():
        return None
    found = None
    for line in (folder / "metrics.json").read_text().splitlines():
        try:
            content = json.loads(line)
        except json.JSONDecodeError:  # cut off when the run was killed
            continue
        if all(metric in content for metric in metrics):
            found = content
    return found


def train(config: Path, folder: Path, seed: int, options: list[str], metrics: list[str]) -> dict[str, float]:
    """``final_metrics`` of a run. It is trained if it is not finished, from where it stopped, in a process of its own,
    and says so in one line; what that process prints goes to ``folder/console.txt``.

    Args:
        config: of the run.
        folder: its ``OUTPUT_DIR``.
        seed: its ``SEED``.
        options: more KEY VALUE pairs.
        metrics: names that the evaluation is to give; the first one is printed.

    Raises:
        InputError: the folder has a run with another config; the run failed, or did not evaluate a metric: names the
            file that says why.
    """
    options = [*options, "SEED", str(seed), "OUTPUT_DIR", str(folder)]
    _check_same(config, folder, options)
    done = final_metrics(folder, metrics)
    if done is not None:
        return done
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    console = folder / "console.txt"
    with open(console, "a") as file:
        code = _children.run([sys.executable, str(TRAIN_NET), "--resume", "--config-file", str(config), *options], file)
    if code:
        raise InputError(f"{config} with seed {seed} failed (exit {code}): see {console}")
    done = final_metrics(folder, metrics)
    if done is None:
        raise InputError(f"{config} with seed {seed} was not evaluated with {' and '.join(metrics)}: see {console}")
    print(f"{folder}: {metrics[0]} {done[metrics[0]]:.1f}, {(time.monotonic() - start) / 60:.1f} min", flush=True)
    return done


def _check_same(config: Path, folder: Path, options: list[str]) -> None:
    """A run is gone on with, or taken as done, only if it is the one asked for."""
    if not (folder / "config.yaml").is_file():
        return
    had = _flat(yaml.safe_load((folder / "config.yaml").read_text()) or {})
    wanted = _flat(yaml.safe_load(load_config(str(config), options).dump()))
    other = [key for key in wanted if key in had and had[key] != wanted[key] and key not in _INDIFFERENT]
    if other:
        more = f" (and {len(other) - 1} other keys)" if len(other) > 1 else ""
        raise InputError(
            f"{folder} has a run with {other[0]} {had[other[0]]!r}, but {wanted[other[0]]!r} is asked for{more}: "
            "remove the folder or choose another --output"
        )


def _flat(content: dict, prefix: str = "") -> dict[str, object]:
    found = {}
    for key, value in content.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{key}."))
        elif prefix + key == "MODEL.WEIGHTS" and value and "://" not in value:
            found[prefix + key] = os.path.abspath(value)
        else:
            found[prefix + key] = value
    return found


class _Children:
    """The processes that run, so that none outlives what started them."""

    def __init__(self) -> None:
        self._lock, self._running, self.stopped = threading.Lock(), set(), False

    def run(self, command: list[str], console: TextIO) -> int:
        """Exit code of a process whose output goes to the file ``console``."""
        with self._lock:
            if self.stopped:
                return -signal.SIGTERM
            process = subprocess.Popen(command, stdout=console, stderr=console)
            self._running.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._running.discard(process)

    def stop(self) -> None:
        """What runs saves a checkpoint and ends; nothing new starts."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.terminate()


_children = _Children()


def in_parallel(jobs: list[Callable[[], T]], count: int) -> list[T]:
    """The jobs' results in their order, ``count`` jobs at the same time; jobs call :func:`train`. The first one that
    fails, Ctrl-C and SIGTERM stop all: what runs saves a checkpoint and ends, what waits is not started."""
    errors: list[BaseException] = []

    def guarded(job: Callable[[], T]) -> T | None:
        if not _children.stopped:
            try:
                return job()
            except BaseException as error:
                errors.append(error)
                _children.stop()
        return None

    def leave(*_) -> None:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        with ThreadPoolExecutor(count) as pool:
            try:
                futures = [pool.submit(guarded, job) for job in jobs]
                wait(futures)
            except BaseException:
                _children.stop()
                raise
    finally:
        signal.signal(signal.SIGTERM, before)
        _children.stopped = False
    if errors:
        raise errors[0]
    return [future.result() for future in futures]
