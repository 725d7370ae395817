"""A time limit per test: "evaluation never ends" is one of the failures that these tests look for."""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .run import train_weights

TIME_LIMIT = 100  # seconds; a test takes less than one, those that start a process less than 20
# pytest replaces file descriptor 2 during a test.
_STDERR = os.fdopen(os.dup(sys.__stderr__.fileno()), "w")


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """End the test process with a traceback if the test does not end: pycocotools' loops ignore signals."""
    faulthandler.dump_traceback_later(TIME_LIMIT, exit=True, file=_STDERR)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def weights_of(tmp_path_factory) -> Callable[[str], Path]:
    """A function from the name of a model to a checkpoint of it."""
    known: dict[str, Path] = {}

    def get(model: str) -> Path:
        if model not in known:
            known[model] = train_weights(tmp_path_factory.mktemp(f"weights_{model}"), model)
        return known[model]

    return get
