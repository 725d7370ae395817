"""What other platforms do differently: worker processes are started by spawn, and there is no SIGUSR1."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tellapart.engine.preemption import PreemptionHook

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import multiprocessing, sys
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    from tellapart_cli import main
    main(["train", *sys.argv[1:]])
"""


@pytest.mark.parametrize("method", ["Mask R-CNN", "FCIS"])
def test_workers_that_are_spawned(tiny_set, tiny_config, tmp_path, method):
    """Loaders, mappers and data sets reach the workers by pickle, and the losses are those of forked workers."""
    (tmp_path / "spawned.py").write_text(SCRIPT)
    opts = ["DATALOADER.NUM_WORKERS", "2", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()"]
    if method == "FCIS":
        opts += ["MODEL.META_ARCHITECTURE", "FCIS", "MODEL.ROI_HEADS.NAME", "FCISROIHeads"]
        opts += ["MODEL.FCIS.CONV_DIMS", "[16]"]
    losses = []
    for script in (tmp_path / "spawned.py", ROOT / "train_net.py"):
        output = tmp_path / script.stem
        flags = [
            "--config-file",
            str(tiny_config("spawned", output)),
            "--register",
            f"spawned={tiny_set[0]}:{tiny_set[1]}",
        ]
        environment = {"PYTHONPATH": str(ROOT / "projects"), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
        environment |= {"PATH": "/usr/bin:/bin", "TELLAPART_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, str(script), *flags, *opts]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        losses.append([line for line in (output / "metrics.json").read_text().splitlines() if "total_loss" in line])
    values = [[line.partition('"total_loss": ')[2].partition(",")[0] for line in lines] for lines in losses]
    assert values[0] == values[1] and values[0]


def test_there_is_no_sigusr1_on_windows(monkeypatch):
    monkeypatch.delattr(signal, "SIGUSR1", raising=False)
    hook = PreemptionHook()
    hook.before_train()
    hook.after_train()
