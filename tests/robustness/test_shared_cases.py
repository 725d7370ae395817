"""The shared folder of 28 cases, where it exists beside the checkout: every one ends as its README expects."""

from __future__ import annotations

import pytest

from .run import check, run_here, run_process
from .shared_cases import SHARED_CASES, run_shared


@pytest.mark.parametrize("case", SHARED_CASES, ids=lambda case: case.id)
def test_shared_case(case, shared_data, tmp_path):
    folder = shared_data / "cases"
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}")
    outcome = run_shared(case, folder / case.id, tmp_path, run_here, run_process)
    check(outcome, case.expect, in_process=not case.script)


def test_every_shared_case_is_listed(shared_data):
    folder = shared_data / "cases"
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}")
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {case.id for case in SHARED_CASES}
