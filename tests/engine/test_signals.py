"""Signals to trainings in one process and in two: what is saved, the exit codes, and that no process is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
NAME = "signals_test"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
LONG = ("SOLVER.MAX_ITER", "100000", "SOLVER.STEPS", "()", "DATALOADER.NUM_WORKERS", "2")
# A flag without effect on these trainings; by its value the test finds all processes of a run.
MARK = "--dist-url"


class Run:
    """A training in a process group of its own."""

    def __init__(self, launcher: list[str], flags: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.mark = f"tcp://{folder.name}-{os.getpid()}-{time.monotonic_ns()}"
        command = [*launcher, str(ROOT / "train_net.py"), MARK, self.mark, *flags]
        self._output = open(folder.parent / f"{folder.name}.txt", "a+")  # noqa: SIM115
        variables = {**os.environ, "PYTHONPATH": str(ROOT / "projects"), "OMP_NUM_THREADS": "1", **environment}
        self.process = subprocess.Popen(
            command, stdout=self._output, stderr=subprocess.STDOUT, env=variables, start_new_session=True
        )

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s: {what}\n{self.text()[-3000:]}"
            time.sleep(0.1)

    def text(self) -> str:
        self._output.seek(0)
        return self._output.read()

    def is_training(self) -> bool:
        path = self.folder / "metrics.json"
        return path.is_file() and "total_loss" in path.read_text()

    def processes(self) -> dict[int, int]:
        """Process number -> number of its parent, of all processes of this run."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark in (path / "cmdline").read_text() and (path / "stat").read_text().split()[2] != "Z":
                    found[int(path.name)] = int((path / "stat").read_text().split()[3])
            except OSError:
                continue  # ended meanwhile
        return found

    def ranks(self) -> list[int]:
        """The training processes that torchrun has started."""
        return sorted(number for number, parent in self.processes().items() if parent == self.process.pid)

    def ends(self, seconds: float = 90) -> int:
        """Wait until the training has ended, and return the exit code."""
        code = self.process.wait(seconds)
        self.wait_until(lambda: not self.processes(), "no process is left", 30)
        return code

    def close(self) -> None:
        for number in self.processes():
            os.kill(number, signal.SIGKILL)
        self.process.wait()
        self._output.close()


@pytest.fixture
def start(tiny_set, tiny_config, tmp_path):
    """A function that starts a training in ``tmp_path / "run"``, and waits for its first iterations."""
    runs = []

    def start_run(launcher: list[str] | None = None, *opts: str, environment=(), wait: bool = True) -> Run:
        flags = ["--config-file", str(tiny_config(NAME, tmp_path / "run"))]
        flags += ["--register", f"{NAME}={tiny_set[0]}:{tiny_set[1]}", "--resume", *LONG, *opts]
        run = Run(launcher or [sys.executable], flags, tmp_path / "run", dict(environment))
        runs.append(run)
        if wait:
            run.wait_until(run.is_training, "an iteration")
        return run

    yield start_run
    for run in runs:
        run.close()


def saved_iteration(folder: Path) -> int:
    """The iteration of the last checkpoint, which must be complete."""
    name = (folder / "last_checkpoint").read_text().strip()
    state = torch.load(folder / name, weights_only=True)
    assert not list(folder.glob("*.part")) and name == f"model_{state['iteration']:07d}.pth"
    return state["iteration"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name)
@pytest.mark.parametrize("processes", ["one", "torchrun"])
def test_a_signal_saves_and_stops(start, processes, number):
    """To the whole group, as a terminal does; torchrun's workers are in groups of their own."""
    launcher = [*TORCHRUN[:-1], "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1", TORCHRUN[-1]]
    run = start(launcher if processes == "torchrun" else None)
    os.killpg(run.process.pid, number)
    code = run.ends()
    assert code == (1 if processes == "torchrun" else 128 + number)
    assert saved_iteration(run.folder) > 0
    assert f"{number.name}: saved model_" in run.text()
    if processes == "one":
        assert "Traceback" not in run.text()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGKILL], ids=lambda number: number.name)
def test_workers_stop_when_torchrun_has_died(start, number):
    """By default SIGUSR1 ends torchrun itself."""
    run = start(TORCHRUN)
    run.process.send_signal(number)
    assert run.ends() == -number
    assert saved_iteration(run.folder) > 0
    assert "torchrun, which started this process, has died" in run.text()


def test_a_killed_rank_stops_the_other(start):
    run = start(TORCHRUN, "SOLVER.CHECKPOINT_PERIOD", "5")
    run.wait_until((run.folder / "last_checkpoint").is_file, "a checkpoint")
    os.kill(run.ranks()[1], signal.SIGKILL)
    assert run.ends() == 1
    assert "Unable to shutdown process" not in run.text()  # the other ended by itself
    iteration = saved_iteration(run.folder)
    assert iteration % 5 == 4
    again = start(None, wait=False)
    again.wait_until(lambda: f"Starting training from iteration {iteration + 1}" in again.text(), "a resumed run")


def test_second_ctrl_c_leaves_at_once():
    code = (
        "import os, signal, types, torch\n"
        "from tellapart.engine.preemption import PreemptionHook\n"
        "hook = PreemptionHook()\n"
        "hook.trainer = types.SimpleNamespace(model=torch.nn.ReLU(), iter=7)\n"
        "hook.before_train()\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print('goes on', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print('still here')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "goes on\n" and done.returncode == -signal.SIGINT
    assert done.stderr.endswith("SIGINT: finishing iteration 7, then saving (Ctrl-C again: leaving at once)\n")


def test_an_evaluation_is_left(start):
    """The checkpoint is that of the iteration before the evaluation, which takes 8 images of 1600 px."""
    large = ("INPUT.MIN_SIZE_TEST", "1600", "INPUT.MAX_SIZE_TEST", "1600")
    run = start(None, "TEST.EVAL_PERIOD", "3", "DATALOADER.NUM_WORKERS", "0", *large, wait=False)
    run.wait_until(lambda: "Start inference" in run.text(), "an evaluation")
    os.killpg(run.process.pid, signal.SIGTERM)
    assert run.ends() == 128 + signal.SIGTERM
    assert saved_iteration(run.folder) == 2
    assert "SIGTERM: leaving the evaluation, then saving" in run.text() and "Traceback" not in run.text()


def test_signals_reach_the_processes_of_launch(tmp_path):
    """Detectron2's launch needs GPUs; two processes that wait for a signal stand in for what it starts."""
    (tmp_path / "driver.py").write_text(
        "import argparse, pathlib, signal, sys, time\n"
        "import torch\n"
        "import torch.multiprocessing as mp\n"
        "from tellapart.engine import launch\n"
        "def work(rank):\n"
        "    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))\n"
        "    pathlib.Path(f'{sys.argv[1]}/ready_{rank}').touch()\n"
        "    time.sleep(120)\n"
        "if __name__ == '__main__':\n"
        "    launch.detectron2_launch = lambda *args, **options: mp.spawn(work, nprocs=2)\n"
        "    torch.cuda.device_count = lambda: 2\n"
        "    flags = {'num_gpus': 2, 'num_machines': 1, 'machine_rank': 0, 'dist_url': ''}\n"
        "    launch.launch(print, argparse.Namespace(**flags))\n"
    )
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "projects")}
    process = subprocess.Popen([sys.executable, str(tmp_path / "driver.py"), str(tmp_path)], env=variables)
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("ready_*"))) < 2:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM


def test_a_folder_in_use_is_refused(start):
    """In one process and in two; the lock of a killed training is free."""
    run = start(None, "DATALOADER.NUM_WORKERS", "0")
    before = (run.folder / "config.yaml").stat().st_mtime_ns
    for launcher, code in ((None, 2), (TORCHRUN, 1)):
        second = start(launcher, wait=False)
        assert second.ends() == code
        assert f"OUTPUT_DIR {run.folder}: another training that still runs writes there" in second.text()
        assert second.text().count("error: OUTPUT_DIR") == (1 if launcher is None else 2)
    assert (run.folder / "config.yaml").stat().st_mtime_ns == before
    run.process.kill()
    run.ends()
    assert start(None, "SOLVER.MAX_ITER", "3", wait=False).ends() == 0


def test_tasks_of_srun_are_one_job(start, tmp_path):
    """Two tasks with SLURM's variables and no launcher train together: one writes, and both leave with one signal."""
    common = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
    tasks = [
        start(None, environment={**common, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}, wait=False)
        for rank in range(2)
    ]
    tasks[0].wait_until(tasks[0].is_training, "an iteration")
    tasks[1].process.send_signal(signal.SIGTERM)
    assert [task.ends() for task in tasks] == [128 + signal.SIGTERM] * 2
    assert saved_iteration(tasks[0].folder) > 0
    lines = [json.loads(line) for line in (tasks[0].folder / "metrics.json").read_text().splitlines()]
    iterations = [line["iteration"] for line in lines]
    assert len(set(iterations)) == len(iterations)  # one writer
