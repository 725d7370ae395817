"""Run several trainings, each in a process of its own, and read their final metrics.

``tools/compare_seeds.py``, ``tools/two_stages.py`` and ``tools/dots.py`` share this module.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TextIO, TypeVar

import yaml

from ..errors import InputError
from .config_checks import load_config

# The start of the command line of a training process.
TRAIN_COMMAND = [sys.executable, "-m", "tellapart", "train"]

# Keys that do not change the metrics of a run.
_KEYS_WITHOUT_EFFECT = ("OUTPUT_DIR", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS")

T = TypeVar("T")


def final_metrics(folder: Path, metrics: list[str]) -> dict[str, float] | None:
    """Read the last evaluation of a finished run.

    Args:
        folder: the run's ``OUTPUT_DIR``.
        metrics: names such as ``segm/AP`` that the evaluation must contain.

    Returns:
        The line of ``metrics.json`` as name -> value, or None if the run is not finished or lacks one of ``metrics``.
    """
    if not (folder / "model_final.pth").is_file() or not (folder / "metrics.json").is_file():
        return None
    last = None
    for line in (folder / "metrics.json").read_text().splitlines():
        try:
            content = json.loads(line)
        except json.JSONDecodeError:  # The run was killed while it wrote the line.
            continue
        if all(metric in content for metric in metrics):
            last = content
    return last


def run_training(
    config: Path | str, options: Sequence[str], flags: Sequence[str] = (), console: TextIO | None = None
) -> int:
    """Train in a new process, from the last checkpoint if there is one, and wait for its end.

    Args:
        config: the config file, or its name in the model zoo.
        options: KEY VALUE pairs.
        flags: more flags of ``tellapart train``.
        console: the file for the process's output; by default it goes where this process's output goes.

    Returns:
        The exit code of the process.
    """
    command = [*TRAIN_COMMAND, "--resume", *flags, "--config-file", str(config), *options]
    return _processes.run(command, console)


def train(
    config: Path, folder: Path, seed: int, options: list[str], metrics: list[str], flags: Sequence[str] | None = None
) -> dict[str, float]:
    """Return the ``final_metrics`` of a run; train first if the run is not finished.

    Training continues from the last checkpoint in ``folder``. Its output is appended to ``folder/console.txt``, and a
    line with the first metric and the training time is printed.

    Args:
        config: the config file of the run.
        folder: its ``OUTPUT_DIR``.
        seed: its ``SEED``.
        options: more KEY VALUE pairs.
        metrics: names of metrics that the evaluation must contain.
        flags: more flags of ``tellapart train``.

    Raises:
        InputError: the folder has a run with another config, the run failed, or its evaluation lacks a metric.
    """
    options = [*options, "SEED", str(seed), "OUTPUT_DIR", str(folder)]
    _check_same_config(config, folder, options)
    results = final_metrics(folder, metrics)
    if results is not None:
        return results
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    console = folder / "console.txt"
    with open(console, "a") as file:
        code = run_training(config, options, flags or (), file)
    if code:
        raise InputError(f"{config} with seed {seed} failed (exit {code}): see {console}")
    results = final_metrics(folder, metrics)
    if results is None:
        raise InputError(f"{config} with seed {seed} was not evaluated with {' and '.join(metrics)}: see {console}")
    print(f"{folder}: {metrics[0]} {results[metrics[0]]:.1f}, {(time.monotonic() - start) / 60:.1f} min", flush=True)
    return results


def _check_same_config(config: Path, folder: Path, options: list[str]) -> None:
    """Check that an earlier run in ``folder``, if there is one, had the same config."""
    if not (folder / "config.yaml").is_file():
        return
    earlier = _flatten(yaml.safe_load((folder / "config.yaml").read_text()) or {})
    requested = _flatten(yaml.safe_load(load_config(str(config), options).dump()))
    changed = [
        key
        for key, value in requested.items()
        if key in earlier and earlier[key] != value and key not in _KEYS_WITHOUT_EFFECT
    ]
    if changed:
        key = changed[0]
        more = f" (and {len(changed) - 1} other keys)" if len(changed) > 1 else ""
        raise InputError(
            f"{folder} has a run with {key} {earlier[key]!r}, but {requested[key]!r} is requested{more}: "
            "remove the folder or choose another --output"
        )


def _flatten(content: dict, prefix: str = "") -> dict[str, object]:
    """Return full key -> value for nested sections; ``MODEL.WEIGHTS`` as an absolute path."""
    flat = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        elif prefix + key == "MODEL.WEIGHTS" and value and "://" not in value:
            flat[prefix + key] = os.path.abspath(value)
        else:
            flat[prefix + key] = value
    return flat


class _Processes:
    """The running child processes, so that all can be stopped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self.stopped = False

    def run(self, command: list[str], console: TextIO | None) -> int:
        """Run ``command`` and return its exit code; do not start it after :meth:`stop`."""
        with self._lock:
            if self.stopped:
                return -signal.SIGTERM
            process = subprocess.Popen(command, stdout=console, stderr=console, env=_environment())
            self._running.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._running.discard(process)

    def stop(self) -> None:
        """Send SIGTERM to all processes, which save a checkpoint and exit; start no further one."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.terminate()


_processes = _Processes()


def _environment() -> dict[str, str]:
    """Return this process's environment, in which a child process imports the same ``tellapart``."""
    paths = [str(Path(__file__).resolve().parents[2])]
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def in_parallel(jobs: list[Callable[[], T]], num_parallel: int) -> list[T]:
    """Run ``jobs``, which call :func:`train` or :func:`run_training`, ``num_parallel`` at a time.

    If a job fails, on Ctrl-C and on SIGTERM, all jobs stop: running trainings save a checkpoint and exit, and waiting
    jobs are not started.

    Args:
        jobs: functions without arguments.
        num_parallel: the maximum number of jobs that run at the same time.

    Returns:
        The results of the jobs, in the order of ``jobs``.

    Raises:
        BaseException: the first error that a job raised.
    """
    errors: list[BaseException] = []

    def run_job(job: Callable[[], T]) -> T | None:
        if not _processes.stopped:
            try:
                return job()
            except BaseException as error:
                errors.append(error)
                _processes.stop()
        return None

    def exit_on_sigterm(*_) -> None:
        sys.exit(128 + signal.SIGTERM)

    previous_handler = signal.signal(signal.SIGTERM, exit_on_sigterm)
    try:
        with ThreadPoolExecutor(num_parallel) as pool:
            try:
                futures = [pool.submit(run_job, job) for job in jobs]
                wait(futures)
            except BaseException:
                _processes.stop()
                raise
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
        _processes.stopped = False
    if errors:
        raise errors[0]
    return [future.result() for future in futures]
