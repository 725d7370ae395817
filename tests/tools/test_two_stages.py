"""tools/two_stages.py, with a script that replaces the training process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tellapart.engine import job_runner

import pytest

STUB = """
import json, pathlib, sys
with open(pathlib.Path(__file__).with_name("calls"), "a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
sys.exit(3 if "worse.yaml" in " ".join(sys.argv) else 0)
"""


@pytest.fixture
def stages(tmp_path, monkeypatch, run_tool):
    """A function that runs the tool on new configs of these names and returns its output and the calls' arguments."""
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setattr(job_runner, "TRAIN_COMMAND", [sys.executable, str(tmp_path / "stub.py")])

    def call(*names: str, more: tuple[str, ...] = ()) -> tuple[str, list[list[str]]]:
        for name in names:
            text = f"OUTPUT_DIR: {tmp_path / name}\nMODEL: {{WEIGHTS: of_another_run.pth}}\n"
            (tmp_path / f"{name}.yaml").write_text(text)
        printed = run_tool("two_stages.py", *(str(tmp_path / f"{name}.yaml") for name in names), *more)
        calls = tmp_path / "calls"
        return printed, [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []

    return call


def test_second_stage_starts_from_the_weights_of_the_first(stages, tmp_path):
    _, (first, second) = stages("good", "better", more=("--num-gpus", "2", "--opts", "SOLVER.MAX_ITER", "7"))
    for call, name in ((first, "good"), (second, "better")):
        assert call[:3] == ["--resume", "--num-gpus", "2"]
        assert call[3:7] == ["--config-file", str(tmp_path / f"{name}.yaml"), "SOLVER.MAX_ITER", "7"]
    assert first[7:] == [] and second[7:] == ["MODEL.WEIGHTS", str(tmp_path / "good" / "model_final.pth")]


def test_second_stage_is_not_started_if_the_first_fails(stages):
    printed, calls = stages("worse", "better")
    assert "worse.yaml failed (exit 3)" in printed and len(calls) == 1


def test_one_output_folder_for_both_stages_is_refused(stages, tmp_path):
    printed, calls = stages("good", "better", more=("--opts", "OUTPUT_DIR", str(tmp_path / "x")))
    assert f"OUTPUT_DIR of both stages is {tmp_path / 'x'}" in printed and calls == []
    assert "does not exist" in stages("good", more=(str(Path("none.yaml")),))[0]


def test_data_sets_are_registered_for_both_stages(stages):
    _, calls = stages("good", "better", more=("--register", "mine=a.json:images"))
    assert [call[3:5] for call in calls] == [["--register", "mine=a.json:images"]] * 2
