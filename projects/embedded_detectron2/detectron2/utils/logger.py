"""Logging to the console and to files, and log calls that suppress repetitions."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import time
from collections import Counter

from tabulate import tabulate
from termcolor import colored

from detectron2.utils.file_io import PathManager


class _Formatter(logging.Formatter):
    """Shortens the root of the logger's name. With color, only warnings and errors show their level."""

    def __init__(self, fmt: str, name: str, abbrev: str, color: bool):
        super().__init__(fmt, datefmt="%m/%d %H:%M:%S")
        self._root, self._abbrev, self._color = name + ".", abbrev + "." if abbrev else "", color

    def formatMessage(self, record):
        full = record.name
        if full.startswith(self._root):
            record.name = self._abbrev + full[len(self._root) :]
        try:
            line = super().formatMessage(record)
        finally:
            record.name = full  # other handlers use the record too
        if self._color and record.levelno >= logging.WARNING:
            attrs = ["blink"] if record.levelno == logging.WARNING else ["blink", "underline"]
            level = "WARNING" if record.levelno == logging.WARNING else "ERROR"
            line = colored(level, "red", attrs=attrs) + " " + line
        return line


@functools.cache  # a second call must not add the handlers again
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Let a logger write to the console (rank 0 only) and to a file, at level DEBUG.

    Args:
        output: file (ending in .txt or .log), or folder for the file ``log.txt``. Rank N > 0 appends ``.rankN`` to the
            name. None writes no file.
        distributed_rank: rank of this process.
        color: use colors on the console.
        name: name of the logger. Its children use the same handlers.
        abbrev_name: text to print instead of ``name``. By default "d2" for "detectron2" and otherwise the name.
            "" prints no name.
        enable_propagation: pass the lines to parent loggers too.
        configure_stdout: print to the console on rank 0.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name

    plain = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
    if configure_stdout and distributed_rank == 0:
        handler = logging.StreamHandler(stream=sys.stdout)
        handler.setLevel(logging.DEBUG)
        fmt = colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s" if color else plain
        handler.setFormatter(_Formatter(fmt, name, abbrev_name, color))
        logger.addHandler(handler)
    if output is not None:
        filename = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            filename += f".rank{distributed_rank}"
        PathManager.mkdirs(os.path.dirname(filename))
        handler = logging.StreamHandler(_log_stream(filename))
        handler.setLevel(logging.DEBUG)
        handler.setFormatter(_Formatter(plain, name, abbrev_name, False))
        logger.addHandler(handler)
    return logger


@functools.cache  # several loggers write to one file
def _log_stream(filename: str):
    stream = PathManager.open(filename, "a", buffering=1)
    atexit.register(stream.close)
    return stream


def _caller() -> tuple[str, tuple]:
    """Return the logger's name and the (file, line, function) of the first frame outside this file."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__:
        frame = frame.f_back
    module = frame.f_globals["__name__"]
    # A script uses the logger "detectron2", which has handlers.
    name = "detectron2" if module == "__main__" else module
    return name, (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


_COUNT: Counter = Counter()
_LAST_TIME: dict[tuple, float] = {}


def log_first_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None, key: str | tuple = "caller") -> None:
    """Log only the first ``n`` times.

    Args:
        key: what counts as the same: "caller" the line of the call, "message" the text, or a tuple of both.
    """
    keys = (key,) if isinstance(key, str) else tuple(key)
    module, place = _caller()
    identity = (place if "caller" in keys else ()) + ((msg,) if "message" in keys else ())
    _COUNT[identity] += 1
    if _COUNT[identity] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: str | None = None) -> None:
    """Log at most once in ``n`` seconds per line of the call."""
    module, place = _caller()
    now = time.time()
    if place not in _LAST_TIME or now - _LAST_TIME[place] >= n:
        _LAST_TIME[place] = now
        logging.getLogger(name or module).log(lvl, msg)


def create_small_table(small_dict: dict) -> str:
    """Return a table with one row and the keys as headers."""
    return tabulate(
        [tuple(small_dict.values())],
        headers=tuple(small_dict.keys()),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )
