"""tools/two_stages.py, with a stand-in for train_net.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

STUB = """
import json, pathlib, sys
with open(pathlib.Path(__file__).with_name("calls"), "a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
sys.exit(3 if "worse.yaml" in " ".join(sys.argv) else 0)
"""


@pytest.fixture
def stages(tmp_path, monkeypatch, run_tool):
    """A function that runs the tool on configs of these names; what it says, and train_net.py's arguments."""
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setattr(job_runner, "TRAIN_NET", tmp_path / "stub.py")

    def call(*names: str, more: tuple[str, ...] = ()) -> tuple[str, list[list[str]]]:
        for name in names:
            text = f"OUTPUT_DIR: {tmp_path / name}\nMODEL: {{WEIGHTS: of_another_run.pth}}\n"
            (tmp_path / f"{name}.yaml").write_text(text)
        said = run_tool("two_stages.py", *(str(tmp_path / f"{name}.yaml") for name in names), *more)
        calls = tmp_path / "calls"
        return said, [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []

    return call


def test_the_second_starts_from_the_firsts_weights(stages, tmp_path):
    _, (first, second) = stages("good", "better", more=("--num-gpus", "2", "--opts", "SOLVER.MAX_ITER", "7"))
    for call, name in ((first, "good"), (second, "better")):
        given = ["--resume", "--num-gpus", "2", "--config-file", str(tmp_path / f"{name}.yaml"), "SOLVER.MAX_ITER", "7"]
        assert call[:7] == given
    assert first[7:] == [] and second[7:] == ["MODEL.WEIGHTS", str(tmp_path / "good" / "model_final.pth")]


def test_a_first_stage_that_fails_ends_it(stages):
    said, calls = stages("worse", "better")
    assert "worse.yaml ended with exit code 3" in said and len(calls) == 1


def test_one_folder_for_both_is_refused(stages, tmp_path):
    said, calls = stages("good", "better", more=("--opts", "OUTPUT_DIR", str(tmp_path / "x")))
    assert f"OUTPUT_DIR of both stages is {tmp_path / 'x'}" in said and calls == []
    assert "does not exist" in stages("good", more=(str(Path("none.yaml")),))[0]
