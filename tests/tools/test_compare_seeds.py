"""engine/job_runner.py and tools/compare_seeds.py, with a script that replaces the training process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tellapart.engine import job_runner
from tellapart.engine.config_checks import load_config

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The metric is 10 * seed + the length of the config's name; the weights file contains the runs that led to it.
STUB = """
import json, os, pathlib, sys, time
config = pathlib.Path(sys.argv[sys.argv.index("--config-file") + 1])
pairs = sys.argv[sys.argv.index("--config-file") + 2:]
options = dict(zip(pairs[::2], pairs[1::2]))
folder = pathlib.Path(options["OUTPUT_DIR"])
if "slow" in config.read_text():
    (folder / "config.yaml").touch()
    time.sleep(600)
print("call", json.dumps({"argv": sys.argv[1:], "threads": os.environ.get("OMP_NUM_THREADS")}))
if "broken" in config.read_text():
    sys.exit(7)
weights = options.get("MODEL.WEIGHTS")
start = pathlib.Path(weights).read_text() + " > " if weights else ""
(folder / "model_final.pth").write_text(start + f"{config.stem} {options['SEED']}")
score = 10.0 * int(options["SEED"]) + len(config.stem)
name = "coloring/ARI" if "ari" in config.read_text() else "segm/AP"
with open(folder / "metrics.json", "a") as file:
    for line in ({"total_loss": 1.0}, {name: -5.0}, {name: score, "segm/AP50": score + 1}, {"total_loss": 0.5}):
        print(json.dumps(line), file=file)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with the configs first, second and other, which the replaced training process reads."""
    (tmp_path / "stub.py").write_text(STUB)
    for name in ("first", "second", "other"):
        (tmp_path / f"{name}.yaml").write_text("VERSION: 2\n")
    monkeypatch.setattr(job_runner, "TRAIN_COMMAND", [sys.executable, str(tmp_path / "stub.py")])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # So that it is restored after the test.
    return tmp_path


@pytest.fixture
def compare(folder, run_tool):
    """A function that runs the tool and returns what `run_tool` returns."""

    def call(*arguments: str, second: tuple[str, ...] = ("second", "other")) -> str:
        command = ["compare_seeds.py", "--first", str(folder / "first.yaml"), "--output", str(folder / "out")]
        command += ["--second", *(str(folder / f"{name}.yaml") for name in second)]
        return run_tool(*command, "--metrics", "segm/AP", "segm/AP50", *arguments)

    return call


def calls(run_folder: Path) -> list[dict]:
    """Return arguments and threads of each training process of this run."""
    lines = (run_folder / "console.txt").read_text().splitlines()
    return [json.loads(line[len("call ") :]) for line in lines if line.startswith("call ")]


def test_table_and_file(compare, folder):
    printed = compare("--seeds", "1", "2", "4", "--opts", "SOLVER.MAX_ITER", "3")
    table = printed[printed.index("| config") :].splitlines()
    assert table == [
        "| config | segm/AP | segm/AP50 | seeds |",
        "|---|---|---|---|",
        "| first | 28.3 ± 15.3 | 29.3 ± 15.3 | 3 |",  # 15, 25, 45
        "| second | 29.3 ± 15.3 | 30.3 ± 15.3 | 3 |",
        "| other | 28.3 ± 15.3 | 29.3 ± 15.3 | 3 |",
    ]
    content = json.loads((folder / "out" / "comparison.json").read_text())
    assert content["seeds"] == [1, 2, 4] and list(content["runs"]) == ["first", "second", "other"]
    assert [line["segm/AP"] for line in content["runs"]["second"]] == [16, 26, 46]
    assert f"{folder / 'out' / 'second' / 'seed_4'}: segm/AP 46.0, 0.0 min" in printed


def test_second_stages_start_from_the_first_stage_of_the_same_seed(compare, folder):
    compare("--seeds", "3", "5", "--opts", "SOLVER.MAX_ITER", "3")
    for seed in (3, 5):
        for name in ("second", "other"):
            run_folder = folder / "out" / name / f"seed_{seed}"
            assert (run_folder / "model_final.pth").read_text() == f"first {seed} > {name} {seed}"
            (call,) = calls(run_folder)
            assert call["argv"][:3] == ["--resume", "--config-file", str(folder / f"{name}.yaml")]
            assert call["argv"][3:5] == ["SOLVER.MAX_ITER", "3"]
    assert "MODEL.WEIGHTS" not in calls(folder / "out" / "first" / "seed_3")[0]["argv"]


def test_without_a_first_stage(folder, run_tool):
    configs = [str(folder / f"{name}.yaml") for name in ("second", "other")]
    flags = ["--output", str(folder / "out"), "--seeds", "2", "--metrics", "segm/AP", "--second", *configs]
    printed = run_tool("compare_seeds.py", *flags)
    assert printed[printed.index("| config") :].splitlines()[2:] == [
        "| second | 26.0 ± nan | 1 |", "| other | 25.0 ± nan | 1 |"
    ]  # fmt: skip
    assert (folder / "out" / "other" / "seed_2" / "model_final.pth").read_text() == "other 2"


def test_finished_runs_are_not_repeated(compare, folder):
    compare("--seeds", "1", second=("second",))
    table = compare("--seeds", "1", "2", second=("second", "other"))
    assert table.count("seed_1: ") == 1 and table.count("seed_2: ") == 3
    assert len(calls(folder / "out" / "first" / "seed_1")) == 1
    stopped = folder / "out" / "second" / "seed_2"
    (stopped / "model_final.pth").unlink()
    compare("--seeds", "1", "2", second=("second", "other"))
    assert len(calls(stopped)) == 2 and len(calls(folder / "out" / "other" / "seed_2")) == 1


def test_one_seed_has_no_deviation(compare):
    assert "| first | 25.0 ± nan | 26.0 ± nan | 1 |" in compare("--seeds", "2")


def test_parallel_jobs_use_one_thread_each(compare, folder, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    compare("--seeds", "1", "2", "--jobs", "2")
    (call,) = calls(folder / "out" / "other" / "seed_2")
    assert call["threads"] == "1" and "DATALOADER.NUM_WORKERS 0" in " ".join(call["argv"])
    compare("--seeds", "3", "--jobs", "1")
    assert "DATALOADER.NUM_WORKERS" not in calls(folder / "out" / "other" / "seed_3")[0]["argv"]


def test_failures_are_named(compare, folder):
    (folder / "second.yaml").write_text("# broken")
    console = folder / "out" / "second" / "seed_1" / "console.txt"
    assert compare("--seeds", "1") == f"exit: {folder / 'second.yaml'} with seed 1 failed (exit 7): see {console}"
    (folder / "second.yaml").write_text("VERSION: 2  # ari")
    why = "with seed 1 was not evaluated with segm/AP and segm/AP50: see"
    assert compare("--seeds", "1") == f"exit: {folder / 'second.yaml'} {why} {console}"
    missing = folder / "none.yaml"
    assert compare(second=("second", "none")).startswith(f"exit: config file {missing} does not exist")
    assert not (folder / "out" / "comparison.json").exists()


def test_final_metrics(tmp_path):
    assert job_runner.final_metrics(tmp_path, ["segm/AP"]) is None
    (tmp_path / "metrics.json").write_text('{"segm/AP": 1.0}\n{"segm/AP": 2.0}\n{"total_loss": 0.1}\n{"segm/A')
    assert job_runner.final_metrics(tmp_path, ["segm/AP"]) is None, "without final weights the run is not done"
    (tmp_path / "model_final.pth").touch()
    assert job_runner.final_metrics(tmp_path, ["segm/AP"]) == {"segm/AP": 2.0}
    assert job_runner.final_metrics(tmp_path, ["segm/AP", "bbox/AP"]) is None


def test_run_with_another_config_is_refused(compare, folder):
    compare("--seeds", "1", "--opts", "SOLVER.MAX_ITER", "5")
    run_folder = folder / "out" / "first" / "seed_1"
    requested = ["SOLVER.MAX_ITER", "5", "SEED", "1", "OUTPUT_DIR", "elsewhere", "MODEL.DEVICE", "cuda"]
    (run_folder / "config.yaml").write_text(load_config(str(folder / "first.yaml"), requested).dump())
    assert "| first | 15.0" in compare("--seeds", "1", "--opts", "SOLVER.MAX_ITER", "5")
    printed = compare("--seeds", "1", "--opts", "SOLVER.MAX_ITER", "900")
    assert printed.startswith(f"exit: {run_folder} has a run with SOLVER.MAX_ITER 5, but 900 is requested: remove")
    more = compare("--seeds", "1", "--opts", "SOLVER.MAX_ITER", "900", "MODEL.WEIGHTS", "a.pth")
    assert "(and 1 other keys)" in more
    assert len(calls(run_folder)) == 1


def test_equal_names_and_seeds_are_refused(compare):
    assert "--first and --second are ['first', 'second', 'second']" in compare(second=("second", "second"))
    assert "--seeds are [1, 2, 1]" in compare("--seeds", "1", "2", "1")


def test_a_failure_stops_the_others(compare, folder):
    """The slow seed, which would take ten minutes, is stopped, and the third one never starts."""
    config = folder / "first.yaml"
    stub = (folder / "stub.py").read_text().replace('"slow" in config', "options['SEED'] == '1' and config")
    (folder / "stub.py").write_text(stub.replace('"broken" in config', "options['SEED'] == '2' and config"))
    config.write_text("# not empty")
    start = time.monotonic()
    assert "first.yaml with seed 2 failed (exit 7)" in compare("--seeds", "1", "2", "3", "--jobs", "2")
    assert time.monotonic() - start < 300
    assert not (folder / "out" / "first" / "seed_3").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all(folder, number):
    """On Ctrl-C the terminal signals the child processes too; on SIGTERM the tool has to."""
    (folder / "first.yaml").write_text("# slow")
    driver = folder / "driver.py"
    driver.write_text(
        "import runpy, signal, sys\n"
        # A process that a shell starts in the background ignores SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tellapart.engine import job_runner\n"
        f"job_runner.TRAIN_COMMAND = [sys.executable, {str(folder / 'stub.py')!r}]\nsys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, str(driver), str(ROOT / "tools" / "compare_seeds.py"), "--jobs", "2", "--output", "out"]
    command += ["--first", "first.yaml", "--second", "second.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects"), "PYTHONFAULTHANDLER": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    tool = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes)
    started = [folder / "out" / "first" / f"seed_{seed}" / "config.yaml" for seed in (1, 2)]
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in started):
        assert tool.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(tool.pid, number) if number == signal.SIGINT else tool.send_signal(number)
    try:
        _, errors = tool.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        tool.send_signal(signal.SIGABRT)
        raise AssertionError(tool.communicate()[1]) from None  # faulthandler prints the stack of each thread.
    assert tool.returncode == 128 + number and "Traceback" not in errors
    with pytest.raises(ProcessLookupError):  # No child process is left.
        os.killpg(tool.pid, 0)
    assert not (folder / "out" / "first" / "seed_3").exists()
