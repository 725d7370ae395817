"""A run folder of a small trained model of each kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from robustness import run as robustness


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Callable[[str], Path]:
    """A function from a kind of model (robustness.run.MODELS) to the folder with its ``output`` and its data."""
    folders: dict[str, Path] = {}

    def get(model: str) -> Path:
        if model not in folders:
            folder = tmp_path_factory.mktemp(model)
            robustness.train_weights(folder, model)
            folders[model] = folder
        return folders[model]

    return get
