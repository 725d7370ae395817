"""Runs that other programs start, and tools/compare_seeds.py, with a stand-in for train_net.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tellapart.engine.config_checks import load_config

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The "result" is seed * 10 + the length of the config's name; the weights say what they were made of.
STUB = """
import json, os, pathlib, sys, time
config = pathlib.Path(sys.argv[sys.argv.index("--config-file") + 1])
pairs = sys.argv[sys.argv.index("--config-file") + 2:]
options = dict(zip(pairs[::2], pairs[1::2]))
folder = pathlib.Path(options["OUTPUT_DIR"])
if "slow" in config.read_text():
    (folder / "config.yaml").touch()
    time.sleep(600)
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
        (tmp_path / f"{name}.yaml").write_text("VERSION: 2\n")
    monkeypatch.setattr(job_runner, "TRAIN_NET", tmp_path / "stub.py")
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


def test_without_a_first_stage(made, run_tool):
    configs = [str(made / f"{name}.yaml") for name in ("second", "other")]
    printed = run_tool(
        "compare_seeds.py", "--output", str(made / "out"), "--seeds", "2", "--metrics", "segm/AP", "--second", *configs
    )
    assert printed[printed.index("| config") :].splitlines()[2:] == [
        "| second | 26.0 ± nan | 1 |", "| other | 25.0 ± nan | 1 |"
    ]  # fmt: skip
    assert (made / "out" / "other" / "seed_2" / "model_final.pth").read_text() == "other 2"


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
    (made / "second.yaml").write_text("# broken")
    console = made / "out" / "second" / "seed_1" / "console.txt"
    assert compare("--seeds", "1") == f"exit: {made / 'second.yaml'} with seed 1 failed (exit 7): see {console}"
    (made / "second.yaml").write_text("VERSION: 2  # ari")
    why = "with seed 1 was not evaluated with segm/AP and segm/AP50: see"
    assert compare("--seeds", "1") == f"exit: {made / 'second.yaml'} {why} {console}"
    missing = made / "none.yaml"
    assert compare(second=("second", "none")) == f"exit: config file {missing} does not exist"
    assert not (made / "out" / "comparison.json").exists()


def test_final_metrics(tmp_path):
    assert job_runner.final_metrics(tmp_path, ["segm/AP"]) is None
    (tmp_path / "metrics.json").write_text('{"segm/AP": 1.0}\n{"segm/AP": 2.0}\n{"total_loss": 0.1}\n{"segm/A')
    assert job_runner.final_metrics(tmp_path, ["segm/AP"]) is None, "without final weights the run is not done"
    (tmp_path / "model_final.pth").touch()
    assert job_runner.final_metrics(tmp_path, ["segm/AP"]) == {"segm/AP": 2.0}
    assert job_runner.final_metrics(tmp_path, ["segm/AP", "bbox/AP"]) is None


def test_another_run_is_not_taken_for_the_one_asked_for(compare, made):
    compare("--seeds", "1", "--opts", "SOLVER.MAX_ITER", "5")
    folder = made / "out" / "first" / "seed_1"
    asked = ["SOLVER.MAX_ITER", "5", "SEED", "1", "OUTPUT_DIR", "elsewhere", "MODEL.DEVICE", "cuda"]
    (folder / "config.yaml").write_text(load_config(str(made / "first.yaml"), asked).dump())
    assert "| first | 15.0" in compare("--seeds", "1", "--opts", "SOLVER.MAX_ITER", "5")
    printed = compare("--seeds", "1", "--opts", "SOLVER.MAX_ITER", "900")
    assert printed.startswith(f"exit: {folder} has a run with SOLVER.MAX_ITER 5, but 900 is asked for: remove")
    more = compare("--seeds", "1", "--opts", "SOLVER.MAX_ITER", "900", "MODEL.WEIGHTS", "a.pth")
    assert "(and 1 other keys)" in more
    assert len(seen(folder)) == 1


def test_equal_names_and_seeds_are_refused(compare):
    assert "--first and --second are ['first', 'second', 'second']" in compare(second=("second", "second"))
    assert "--seeds are [1, 2, 1]" in compare("--seeds", "1", "2", "1")


def test_a_failure_stops_the_others(compare, made):
    """Not ten minutes later, when the slow seed would be done; the third never starts."""
    config = made / "first.yaml"
    stub = (made / "stub.py").read_text().replace('"slow" in config', "options['SEED'] == '1' and config")
    (made / "stub.py").write_text(stub.replace('"broken" in config', "options['SEED'] == '2' and config"))
    config.write_text("# not empty")
    start = time.monotonic()
    assert "first.yaml with seed 2 failed (exit 7)" in compare("--seeds", "1", "2", "3", "--jobs", "2")
    assert time.monotonic() - start < 300
    assert not (made / "out" / "first" / "seed_3").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all(made, number):
    """Of Ctrl-C the terminal tells the children too, of SIGTERM nobody does."""
    (made / "first.yaml").write_text("# slow")
    driver = made / "driver.py"
    driver.write_text(
        "import pathlib, runpy, signal, sys\n"
        # what a shell has started in the background ignores it
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tellapart.engine import job_runner\n"
        f"job_runner.TRAIN_NET = pathlib.Path({str(made / 'stub.py')!r})\nsys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, str(driver), str(ROOT / "tools" / "compare_seeds.py"), "--jobs", "2", "--output", "out"]
    command += ["--first", "first.yaml", "--second", "second.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects"), "PYTHONFAULTHANDLER": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    tool = subprocess.Popen(command, cwd=made, env=environment, start_new_session=True, **pipes)
    started = [made / "out" / "first" / f"seed_{seed}" / "config.yaml" for seed in (1, 2)]
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in started):
        assert tool.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(tool.pid, number) if number == signal.SIGINT else tool.send_signal(number)
    try:
        _, errors = tool.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        tool.send_signal(signal.SIGABRT)
        raise AssertionError(tool.communicate()[1]) from None  # where all threads are
    assert tool.returncode == 128 + number and "Traceback" not in errors
    with pytest.raises(ProcessLookupError):  # no child is left
        os.killpg(tool.pid, 0)
    assert not (made / "out" / "first" / "seed_3").exists()
