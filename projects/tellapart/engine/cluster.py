"""Processes that ``srun`` has started: what ``torchrun`` would have told them, and where they meet."""

from __future__ import annotations

import datetime
import os
import re
import sys
from collections.abc import Mapping

import torch.distributed as dist

from ..errors import InputError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_MEETING_TIME = datetime.timedelta(minutes=5)


def is_launched() -> bool:
    """Return whether this process is one of several that have torchrun's variables in their environment."""
    return all(name in os.environ for name in _VARIABLES)


def join_slurm_tasks(num_gpus: int, num_machines: int) -> None:
    """Give the tasks of ``srun`` torchrun's variables, so that they are one job; do nothing for other processes.

    Without them, each task would train alone, and all of them would write to the same folder.

    Args:
        num_gpus: the flag ``--num-gpus``.
        num_machines: the flag ``--num-machines``. If it is above 1, the user starts one task per machine.

    Raises:
        InputError: each task would start several processes, or the nodes have different numbers of tasks.
    """
    if is_launched() or num_machines > 1:
        return
    variables = slurm_variables(os.environ)
    if variables and num_gpus > 1:
        raise InputError(
            f"srun has started {variables['WORLD_SIZE']} tasks, and each would start {num_gpus} processes: "
            "leave out --num-gpus for one process per task, or see docs/cluster.md"
        )
    os.environ.update(variables)


def slurm_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Translate the variables of a task of ``srun`` to torchrun's; {} if there is only one task.

    Raises:
        InputError: the nodes have different numbers of tasks.
    """
    size = int(environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", 1)))
    if size < 2 or "SLURM_PROCID" not in environment:
        return {}
    counts = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", str(size)))
    sizes = {int(count) for count in re.findall(r"(\d+)(?:\(x\d+\))?(?:,|$)", counts)}
    if len(sizes) > 1:
        raise InputError(f"srun has started {counts} tasks per node: start the same number of tasks on each node")
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", "localhost"))
    job, step = (int(environment.get(name, 0)) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": environment.get("SLURM_LOCALID", environment["SLURM_PROCID"]),
        "LOCAL_WORLD_SIZE": str(sizes.pop()),
        "MASTER_ADDR": environment.get("MASTER_ADDR", _first_host(nodes)),
        # The same for all tasks of a step, and different for the steps of a node.
        "MASTER_PORT": environment.get("MASTER_PORT", str(20_000 + (job * 97 + step) % 12_000)),
    }


def _first_host(nodes: str) -> str:
    """Return the first host of a list like ``gpu[07-09,12],cpu3``: there is the task 0."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)


def join_processes(backend: str) -> None:
    """Join the processes that have torchrun's variables.

    Raises:
        InputError: the other tasks of ``srun`` do not come within five minutes.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        dist.init_process_group(backend)
        return
    rank, size, host, port = (os.environ[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    if rank == "0":  # before the loggers are set up
        print(
            f"waiting for the other {int(size) - 1} of {size} processes at {host}:{port}", file=sys.stderr, flush=True
        )
    try:
        store = dist.TCPStore(host, int(port), int(size), is_master=rank == "0", timeout=_MEETING_TIME)
    except dist.DistError as error:
        raise InputError(
            f"process {rank} of {size} waited {_MEETING_TIME} for the others at {host}:{port}. In a batch script of "
            f"SLURM with several tasks, start this command with srun, or set --ntasks=1. ({error})"
        ) from error
    store.set_timeout(dist.distributed_c10d.default_pg_timeout)
    dist.init_process_group(backend, store=store, rank=int(rank), world_size=int(size))
