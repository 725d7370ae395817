"""The table of inputs that people bring: each is read right, or refused before training in one message."""

from __future__ import annotations

import pytest

from .cases import CASES
from .run import check, run_case

RUNS = [(case, model) for case in CASES for model in case.models]


@pytest.mark.parametrize("case, model", RUNS, ids=[f"{case.id}-{model}" for case, model in RUNS])
def test_case(case, model, tmp_path, weights_of):
    weights = weights_of(model) if case.weights else None
    outcome = run_case(case, tmp_path, model, weights)
    check(outcome, case.expect, in_process=not case.process)


def test_number_of_cases_and_unique_names():
    assert len({case.id for case in CASES}) == len(CASES) >= 120
