"""Runs that other programs start, and tools/compare_seeds.py, with a stand-in for train_net.py."""

from __future__ import annotations

import json
from pathlib import Path

from tellapart.runtime import runs

import pytest

# The "result" is seed * 10 + the length of the config's name; the weights say what they were made of.
STUB = """
import json, os, pathlib, sys
config = pathlib.Path(sys.argv[sys.argv.index("--config-file") + 1])
pairs = sys.argv[sys.argv.index("--config-file") + 2:]
options = dict(zip(pairs[::2], pairs[1::2]))
folder = pathlib.Path(options["OUTPUT_DIR"])
print("seen", json.dumps({"argv": sys.argv[1:], "threads": os.environ.get("OMP_NUM_THREADS")}))
if "broken" in config.read_text():
    sys.exit(7)
weights = options.get("MODEL.WEIGHTS")
made_of = pathlib.Path(weights).read_text() + " > " if weights else ""
(folder / "model_final.pth").write_text(made_of + f"{config.stem} {options['SEED']}")
score = 10.0 * int(options["SEED"]) + len(config.stem)
name = "coloring/ARI" if "ari" in config.read_text() else "segm/AP"
with open(folder / "metrics.json", "a") as file:
    for line in ({"total_loss": 1.0}, {name: -5.0}, {name: score, "segm/AP50": score + 1}, {"total_loss": 0.5}):
        print(json.dumps(line), file=file)
"""


@pytest.fixture
def made(tmp_path, monkeypatch) -> Path:
    """A folder with the configs first, second and other, as its stand-in reads them."""
    (tmp_path / "stub.py").write_text(STUB)
    for name in ("first", "second", "other"):
        (tmp_path / f"{name}.yaml").write_text("")
    monkeypatch.setattr(runs, "TRAIN_NET", tmp_path / "stub.py")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # put back what the tools change
    return tmp_path


@pytest.fixture
def compare(made, run_tool):
    """A function that runs the tool; what it prints, or the message that it exits with."""

    def call(*arguments: str, second: tuple[str, ...] = ("second", "other")) -> str:
        command = ["compare_seeds.py", "--first", str(made / "first.yaml"), "--output", str(made / "out")]
        command += ["--second", *(str(made / f"{name}.yaml") for name in second)]
        return run_tool(*command, "--metrics", "segm/AP", "segm/AP50", *arguments)

    return call


def seen(folder: Path) -> list[dict]:
    """What the stand-in was called with for this run, call by call."""
    lines = (folder / "console.txt").read_text().splitlines()
    return [json.loads(line[len("seen ") :]) for line in lines if line.startswith("seen ")]


def test_table_and_file(compare, made):
    printed = compare("--seeds", "1", "2", "4", "--opts", "SOLVER.MAX_ITER", "3")
    table = printed[printed.index("| config") :].splitlines()
    assert table == [
        "| config | segm/AP | segm/AP50 | seeds |",
        "|---|---|---|---|",
        "| first | 28.3 ± 15.3 | 29.3 ± 15.3 | 3 |",  # 15, 25, 45
        "| second | 29.3 ± 15.3 | 30.3 ± 15.3 | 3 |",
        "| other | 28.3 ± 15.3 | 29.3 ± 15.3 | 3 |",
    ]
    content = json.loads((made / "out" / "comparison.json").read_text())
    assert content["seeds"] == [1, 2, 4] and list(content["runs"]) == ["first", "second", "other"]
    assert [line["segm/AP"] for line in content["runs"]["second"]] == [16, 26, 46]
    assert f"{made / 'out' / 'second' / 'seed_4'}: segm/AP 46.0, 0.0 min" in printed


def test_second_stages_start_from_the_firsts_weights_of_their_seed(compare, made):
    compare("--seeds", "3", "5", "--opts", "SOLVER.MAX_ITER", "3")
    for seed in (3, 5):
        for name in ("second", "other"):
            folder = made / "out" / name / f"seed_{seed}"
            assert (folder / "model_final.pth").read_text() == f"first {seed} > {name} {seed}"
            (call,) = seen(folder)
            assert call["argv"][:3] == ["--resume", "--config-file", str(made / f"{name}.yaml")]
            assert call["argv"][3:5] == ["SOLVER.MAX_ITER", "3"]
    assert "MODEL.WEIGHTS" not in seen(made / "out" / "first" / "seed_3")[0]["argv"]


def test_what_is_done_is_not_repeated(compare, made):
    compare("--seeds", "1", second=("second",))
    table = compare("--seeds", "1", "2", second=("second", "other"))
    assert table.count("seed_1: ") == 1 and table.count("seed_2: ") == 3
    assert len(seen(made / "out" / "first" / "seed_1")) == 1
    stopped = made / "out" / "second" / "seed_2"
    (stopped / "model_final.pth").unlink()
    compare("--seeds", "1", "2", second=("second", "other"))
    assert len(seen(stopped)) == 2 and len(seen(made / "out" / "other" / "seed_2")) == 1


def test_one_seed_has_no_spread(compare):
    assert "| first | 25.0 ± nan | 26.0 ± nan | 1 |" in compare("--seeds", "2")


def test_several_at_once_take_a_thread_each(compare, made, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    compare("--seeds", "1", "2", "--jobs", "2")
    (call,) = seen(made / "out" / "other" / "seed_2")
    assert call["threads"] == "1" and "DATALOADER.NUM_WORKERS 0" in " ".join(call["argv"])
    compare("--seeds", "3", "--jobs", "1")
    assert "DATALOADER.NUM_WORKERS" not in seen(made / "out" / "other" / "seed_3")[0]["argv"]


def test_failures_are_named(compare, made):
    (made / "second.yaml").write_text("broken")
    console = made / "out" / "second" / "seed_1" / "console.txt"
    assert compare("--seeds", "1") == f"exit: {made / 'second.yaml'} with seed 1 failed (exit 7): see {console}"
    (made / "second.yaml").write_text("ari")
    why = "with seed 1 was not evaluated with segm/AP: see"
    assert compare("--seeds", "1") == f"exit: {made / 'second.yaml'} {why} {console}"
    missing = made / "none.yaml"
    assert compare(second=("second", "none")) == f"exit: config file {missing} does not exist"
    assert not (made / "out" / "comparison.json").exists()


def test_final_metrics(tmp_path):
    assert runs.final_metrics(tmp_path, "segm/AP") is None
    (tmp_path / "metrics.json").write_text('{"segm/AP": 1.0}\n{"segm/AP": 2.0}\n{"total_loss": 0.1}\n')
    assert runs.final_metrics(tmp_path, "segm/AP") is None, "without final weights the run is not done"
    (tmp_path / "model_final.pth").touch()
    assert runs.final_metrics(tmp_path, "segm/AP") == {"segm/AP": 2.0}
    assert runs.final_metrics(tmp_path, "bbox/AP") is None
