"""Files on which a reader has crashed, hung or raised another exception, found by tools/fuzz_readers.py."""

from __future__ import annotations

import multiprocessing as mp
import shutil
import sys
from pathlib import Path

import pytest

SEEDS = sorted((Path(__file__).parent / "seeds").glob("*.bin"))
TOOLS = Path(__file__).resolve().parents[2] / "tools"
TIME_LIMIT = 60  # seconds, with the imports


def read(reader: str, path: Path, results) -> None:
    sys.path.insert(0, str(TOOLS))
    from fuzz_readers import read_one
    from fuzz_targets import READERS

    READERS[reader](path.parent)  # the images of a JSON file
    result = read_one(reader, path)
    results.put((result.kind, result.detail))


@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: path.stem)
def test_seed_is_read_or_refused(seed, tmp_path):
    reader = seed.stem.partition("_")[0]
    path = tmp_path / f"example.{reader}"
    shutil.copy(seed, path)
    context = mp.get_context("fork")
    results = context.Queue()
    process = context.Process(target=read, args=(reader, path, results), daemon=True)
    process.start()
    process.join(TIME_LIMIT)
    assert process.exitcode == 0, "no end" if process.exitcode is None else f"exit code {process.exitcode}"
    kind, detail = results.get(timeout=5)
    assert kind in ("read", "refused"), detail
