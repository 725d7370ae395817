"""Scalars of a running training, and the writers that log them and write them to files."""

from __future__ import annotations

import datetime
import json
import logging
import os
import time
from collections import defaultdict
from contextlib import suppress
from functools import cached_property

import torch
from fvcore.common.history_buffer import HistoryBuffer

from detectron2.utils.file_io import PathManager

_STORAGE_STACK: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """Return the innermost open storage; AssertionError outside of ``with EventStorage(...)``."""
    assert _STORAGE_STACK, "get_event_storage() has to be called inside a 'with EventStorage(...)' context!"
    return _STORAGE_STACK[-1]


class EventStorage:
    """Collects scalars of a training by name and iteration.

    Inside ``with EventStorage(...)``, `get_event_storage` returns it.
    """

    def __init__(self, start_iter: int = 0):
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._iter = start_iter

    def put_scalar(self, name: str, value, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Add a value.

        Args:
            name: name of the scalar.
            value: number, or tensor with one element.
            smoothing_hint: whether writers should write the median over a window. It must be the same for all values of
                a name.
            cur_iter: iteration of the value, by default the current one.
        """
        cur_iter = self._iter if cur_iter is None else cur_iter
        value = float(value)
        hint = self._smoothing.setdefault(name, smoothing_hint)
        assert hint == smoothing_hint, f"Scalar {name} was put with a different smoothing_hint!"
        self._history[name].update(value, cur_iter)
        self._latest[name] = (value, cur_iter)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs) -> None:
        """Call `put_scalar` for every keyword."""
        for k, v in kwargs.items():
            self.put_scalar(k, v, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def history(self, name: str) -> HistoryBuffer:
        """Return all values of ``name``; KeyError if there are none."""
        if name not in self._history:
            raise KeyError(f"No history metric available for {name}!")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """Return all values of all scalars by name."""
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return the last value and its iteration for each name."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Like `latest`, but with the median over the last ``window_size`` iterations for names with the hint."""
        return {
            k: (self._history[k].median(self.count_samples(k, window_size)) if self._smoothing[k] else v, it)
            for k, (v, it) in self._latest.items()
        }

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """Return the number of values of ``name`` in the ``window_size`` iterations up to its last value."""
        iterations = [it for _, it in self._history[name].values()]
        return sum(it > iterations[-1] - window_size for it in iterations)

    def smoothing_hints(self) -> dict[str, bool]:
        """Return the smoothing hint of each name."""
        return self._smoothing

    def step(self) -> None:
        """Go to the next iteration. Setting ``iter`` does the same."""
        self._iter += 1

    @property
    def iter(self) -> int:
        """The current iteration."""
        return self._iter

    @iter.setter
    def iter(self, value) -> None:
        self._iter = int(value)

    def __enter__(self) -> EventStorage:
        _STORAGE_STACK.append(self)
        return self

    def __exit__(self, exc_type, exc_val, exc_tb) -> None:
        assert _STORAGE_STACK[-1] is self
        _STORAGE_STACK.pop()


class EventWriter:
    """Base class of writers."""

    def write(self) -> None:
        """Write the new values of the current storage."""
        raise NotImplementedError(f"{type(self).__name__} must define write()")

    def close(self) -> None:
        """Close the files."""


class JSONWriter(EventWriter):
    """Appends scalars to a file: one JSON object with "iteration" and sorted keys per line."""

    def __init__(self, json_file: str, window_size: int = 20):
        """
        Args:
            json_file: path of the file. An existing file is continued.
            window_size: number of iterations of the median.
        """
        self._file = PathManager.open(json_file, "a")
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        """Append the scalars since the last call."""
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for k, (v, it) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if it > self._last_write:
                rows[it][k] = float(v)
        if not rows:
            return
        self._last_write = max(rows)
        for it, scalars in rows.items():
            self._file.write(json.dumps({**scalars, "iteration": it}, sort_keys=True) + "\n")
        self._file.flush()
        with suppress(AttributeError, OSError):  # the file is not a local one
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars as TensorBoard events."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs):
        """
        Args:
            log_dir: folder of the events file, which is created at the first write.
            window_size: number of iterations of the median.
            kwargs: further arguments of ``torch.utils.tensorboard.SummaryWriter``.
        """
        self._window_size = window_size
        self._writer_args = {"log_dir": log_dir, **kwargs}
        self._last_write = -1

    @cached_property
    def _writer(self):
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        return SummaryWriter(**self._writer_args)

    def write(self) -> None:
        """Write the scalars since the last call."""
        storage = get_event_storage()
        newest = self._last_write
        for k, (v, it) in storage.latest_with_smoothing_hint(self._window_size).items():
            if it > self._last_write:
                self._writer.add_scalar(k, v, it)
                newest = max(newest, it)
        self._last_write = newest

    def close(self) -> None:
        """Close the events file, if it was created."""
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs a line with ETA, iteration, losses, times in seconds, learning rate and peak GPU memory in MiB."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        """
        Args:
            max_iter: number of iterations of the training. None logs no ETA.
            window_size: number of iterations of the losses' medians.
        """
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None

    def _eta(self, storage: EventStorage) -> str | None:
        if self._max_iter is None:
            return None
        left = self._max_iter - 1 - storage.iter
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * left
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            return str(datetime.timedelta(seconds=int(seconds)))
        # Without the scalar "time": measure the time since the last line.
        eta, now = None, time.perf_counter()
        if self._last_write is not None and storage.iter > self._last_write[0]:
            per_iter = (now - self._last_write[1]) / (storage.iter - self._last_write[0])
            eta = str(datetime.timedelta(seconds=int(per_iter * left)))
        self._last_write = (storage.iter, now)
        return eta

    def write(self) -> None:
        """Log the line for the current iteration."""
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # the training has ended, so nothing is new
        eta = self._eta(storage)

        def recent(k: str) -> int:
            return storage.count_samples(k, self._window_size)

        def named(part: str) -> str:
            return "  ".join(f"{k}: {h.median(recent(k)):.4g}" for k, h in storage.histories().items() if part in k)

        times = ""
        if "time" in storage.histories():
            h = storage.history("time")
            times += f"time: {h.global_avg():.4f}  last_time: {h.latest():.4f}  "
        if "data_time" in storage.histories():
            h = storage.history("data_time")
            times += f"data_time: {h.avg(recent('data_time')):.4f}  last_data_time: {h.latest():.4f}  "
        lr = f"{storage.history('lr').latest():.5g}" if "lr" in storage.histories() else "N/A"
        memory = f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M" if torch.cuda.is_available() else ""
        start = f" eta: {eta}  iter: {storage.iter}" if eta else f" iter: {storage.iter}"
        self.logger.info(f"{start}  {named('loss')}  {named('[metric]')}  {times} lr: {lr}  {memory}")
