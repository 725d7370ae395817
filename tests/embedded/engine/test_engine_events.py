"""Event storage and its writers, loggers, seeds, and retrying after CUDA runs out of memory."""

from __future__ import annotations

import json
import logging
import random
import re

import numpy as np
import pytest
import torch
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from detectron2.utils.logger import log_every_n_seconds, log_first_n, setup_logger
from detectron2.utils.memory import retry_if_cuda_oom


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def lines():
    """Return the list of messages that the logger "detectron2" gets."""
    logger, handler = logging.getLogger("detectron2"), Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_storage_is_the_one_of_the_with_block():
    with pytest.raises(AssertionError, match="EventStorage"):
        get_event_storage()
    with EventStorage(5) as outer:
        assert get_event_storage() is outer
        assert outer.iter == 5
        with EventStorage() as inner:
            assert get_event_storage() is inner
        assert get_event_storage() is outer


def test_storage_scalars():
    with EventStorage() as storage:
        for i in range(30):
            storage.iter = i
            storage.put_scalars(a=float(i), b=torch.tensor(2.0))
            if i % 3 == 0:
                storage.put_scalar("rare", i, smoothing_hint=False)
        storage.put_scalar("scope/c", 1, cur_iter=7)
        assert storage.latest() == {"a": (29.0, 29), "b": (2.0, 29), "rare": (27.0, 27), "scope/c": (1.0, 7)}
        smooth = storage.latest_with_smoothing_hint(10)
        assert smooth["a"] == (np.median(np.arange(20, 30)), 29)
        assert smooth["rare"] == (27.0, 27)
        assert storage.count_samples("rare", 10) == 4  # 18, 21, 24, 27
        assert storage.smoothing_hints() == {"a": True, "b": True, "rare": False, "scope/c": True}
        assert [v for v, _ in storage.history("rare").values()] == list(range(0, 30, 3))
        with pytest.raises(KeyError, match="nothing"):
            storage.history("nothing")
        with pytest.raises(AssertionError, match="smoothing_hint"):
            storage.put_scalar("a", 1, smoothing_hint=False)
        storage.step()
        assert storage.iter == 30


def test_json_writer(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": -1}\n')
    with EventStorage() as storage:
        writer = JSONWriter(str(path))
        for i in range(8):
            storage.iter = i
            storage.put_scalar("loss", i)
            if i == 5:
                storage.put_scalar("bbox/AP", 40.0, smoothing_hint=False)
            if i in (3, 7):
                writer.write()
                writer.write()  # nothing new
        writer.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"iteration": -1},
        {"iteration": 3, "loss": 1.5},
        {"iteration": 7, "loss": 3.5},
        {"bbox/AP": 40.0, "iteration": 5},
    ]
    assert path.read_text().splitlines()[1] == '{"iteration": 3, "loss": 1.5}'


def test_tensorboard_writer(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with EventStorage() as storage:
        writer = TensorboardXWriter(str(tmp_path))
        assert not list(tmp_path.iterdir())
        for i in range(4):
            storage.iter = i
            storage.put_scalar("loss", i)
            if i % 2:
                writer.write()
        writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5), (3, 1.5)]


def test_printer_line(lines):
    with EventStorage() as storage:
        printer = CommonMetricPrinter(100)
        for i in range(40):
            storage.iter = i
            storage.put_scalars(total_loss=2.0 * i, loss_a=1 / (i + 1), other=5)
            storage.put_scalar("lr", 0.000123456, smoothing_hint=False)
            if i >= 2:
                storage.put_scalars(time=0.1 + i / 1000, data_time=0.01 * i)
        storage.put_scalar("[metric]x", 3)
        printer.write()
        assert storage.latest()["eta_seconds"][0] == pytest.approx(0.1205 * 60)
        storage.iter = 100
        printer.write()
    assert len(lines) == 1
    start = (
        " eta: 0:00:07  iter: 39  total_loss: 59  loss_a: 0.0328  [metric]x: 3  time: 0.1205  last_time: 0.1390  "
        "data_time: 0.2950  last_data_time: 0.3900   lr: 0.00012346  "
    )
    assert lines[0].startswith(start)
    assert re.fullmatch(r"(max_mem: \d+M)?", lines[0][len(start) :])


def test_printer_before_anything_is_stored(lines):
    with EventStorage():
        CommonMetricPrinter().write()
    assert lines[0].startswith(" iter: 0       lr: N/A  ")


@pytest.fixture
def root():
    """Return the name of a logger that no other test sets up."""
    return f"enginetest{random.SystemRandom().randrange(10**9)}"


def test_setup_logger_files(tmp_path, root):
    for _ in range(2):  # the second call must not duplicate the lines
        setup_logger(str(tmp_path), name=root, abbrev_name="et")
    setup_logger(str(tmp_path), distributed_rank=2, name=root, abbrev_name="et")
    logging.getLogger(f"{root}.part").info("hello %d", 3)
    logging.getLogger(root).error("bad")
    stamp = r"\[\d\d/\d\d \d\d:\d\d:\d\d\] "
    expected = f"{stamp}et.part INFO: hello 3\n{stamp}{root} ERROR: bad\n"
    for name in ("log.txt", "log.txt.rank2"):
        assert re.fullmatch(expected, (tmp_path / name).read_text())
    assert {p.name for p in tmp_path.iterdir()} == {"log.txt", "log.txt.rank2"}


def test_setup_logger_console(tmp_path, root, capsys):
    setup_logger(str(tmp_path / "deep" / "mine.log"), name=root)
    setup_logger(distributed_rank=1, name=root)  # other ranks print nothing
    logging.getLogger(root).info("hello")
    logging.getLogger(root).warning("careful")
    plain = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out)
    stamp = r"\[\d\d/\d\d \d\d:\d\d:\d\d "
    assert re.fullmatch(rf"{stamp}{root}\]: hello\nWARNING {stamp}{root}\]: careful\n", plain)
    assert len((tmp_path / "deep" / "mine.log").read_text().splitlines()) == 2


def test_held_back_logs(root, monkeypatch):
    handler = Lines()
    logging.getLogger(root).addHandler(handler)
    logging.getLogger(root).setLevel(logging.INFO)
    for i in range(5):
        log_first_n(logging.INFO, f"first {i}", 2, name=root)
        log_every_n_seconds(logging.INFO, f"seconds {i}", 1000, name=root)
        log_first_n(logging.INFO, f"text {i // 3}", name=root, key="message")
    assert handler.lines == ["first 0", "seconds 0", "text 0", "first 1", "text 1"]


def test_seeds():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed_all_rng(7)
    first = draw()
    seed_all_rng(7)
    assert draw() == first
    seed_all_rng(8)
    assert all(a != b for a, b in zip(draw(), first))


@pytest.mark.parametrize("failures", [0, 1, 2, 3])
def test_retry_if_out_of_memory(failures):
    calls = []

    def double(x, y=1):
        calls.append(x)
        if len(calls) <= failures:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return 2 * x + y

    retried = retry_if_cuda_oom(double)
    if failures == 3:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            retried(torch.tensor(2.0))
    else:
        assert retried(torch.tensor(2.0), y=torch.tensor(3.0)) == 7.0
    assert len(calls) == min(failures + 1, 3)


def test_other_errors_are_not_retried():
    def fail():
        raise RuntimeError("another thing")

    with pytest.raises(RuntimeError, match="another"):
        retry_if_cuda_oom(fail)()
