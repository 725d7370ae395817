"""Starting the processes of a job."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from detectron2.utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Run ``main_func(*args)`` in ``num_gpus_per_machine`` processes here; to be called on each machine.

    The processes talk over NCCL, each with its own GPU; without CUDA over gloo. One process on one machine is this one.

    Args:
        main_func: what to run; has to be importable (it is pickled by name).
        num_gpus_per_machine: processes per machine.
        num_machines: machines in all.
        machine_rank: number of this machine, from 0.
        dist_url: where the processes meet, e.g. "tcp://127.0.0.1:8686"; "auto" takes a free port of this machine.
        args: arguments of ``main_func``.
        timeout: how long processes wait for each other.

    Raises:
        ValueError: "auto" with several machines; fewer GPUs than processes.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        if num_machines != 1:
            raise ValueError("dist_url='auto' is for one machine; name the first machine's address instead")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    if torch.cuda.is_available() and num_gpus_per_machine > torch.cuda.device_count():
        raise ValueError(f"{num_gpus_per_machine} processes want a GPU each, there are {torch.cuda.device_count()}")
    mp.start_processes(
        _worker,
        nprocs=num_gpus_per_machine,
        args=(main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout),
        daemon=False,
        start_method="spawn",
    )


def _worker(local_rank, main_func, world_size, per_machine, machine_rank, dist_url, args, timeout):
    cuda = torch.cuda.is_available()
    try:
        dist.init_process_group(
            backend="NCCL" if cuda else "GLOO",
            init_method=dist_url,
            world_size=world_size,
            rank=machine_rank * per_machine + local_rank,
            timeout=timeout,
        )
    except Exception:
        logging.getLogger(__name__).error(f"Processes could not meet at {dist_url}")
        raise
    comm.create_local_process_group(per_machine)
    if cuda:
        torch.cuda.set_device(local_rank)
    comm.synchronize()
    main_func(*args)
