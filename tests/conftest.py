"""What all tests share: Detectron2 (real or embedded) on the path, one thread a test process."""

from __future__ import annotations

import logging
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import tellapart  # noqa: F401  (puts the embedded detectron2 on the path where no other is installed)

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("TELLAPART_SHARED_DATA", ROOT.parent / "shared" / "data"))

# pytest-xdist runs as many processes as there are cores
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_report_header() -> str:
    """Say which detectron2 the tests run under."""
    import detectron2

    return f"detectron2 {detectron2.__version__} from {Path(detectron2.__file__).parent}, torch {torch.__version__}"


@pytest.fixture(autouse=True)
def loggers_as_before():
    """Detectron2's set-up leaves handlers on streams that pytest closes, and turns propagation off: undo it."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "tellapart")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def own_catalogs(monkeypatch, tmp_path):
    """Data sets that a test registers are removed at its end, and the cache folder is a new one."""
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets. Where it doesn't exist, tests that use this fixture are not collected."""
    return SHARED_DATA


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Callable[[str], Path]:
    """A function from a kind of model (robustness.run.MODELS) to a folder with its ``output`` and its data."""
    from robustness.run import train_weights

    folders: dict[str, Path] = {}

    def get(model: str) -> Path:
        if model not in folders:
            folders[model] = tmp_path_factory.mktemp(model)
            train_weights(folders[model], model)
        return folders[model]

    return get


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests on real data if there is none: they only repeat what others test on synthetic data."""
    if not SHARED_DATA.is_dir():
        left_out = [item for item in items if "shared_data" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def run_tool(monkeypatch, capsys) -> Callable[..., str]:
    """A function ``run_tool("name.py", *arguments)`` that runs one of tools/ in this process.

    It returns what the tool prints. If the tool refuses its input (exit code 2), it returns "exit: " and the message.
    """

    def call(tool: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [tool, *arguments])
        try:
            runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
        except SystemExit as exit:
            assert exit.code == 2
            return f"exit: {capsys.readouterr().err.partition('error: ')[2].strip()}"
        return capsys.readouterr().out

    return call
