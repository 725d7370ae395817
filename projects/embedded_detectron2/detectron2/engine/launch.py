"""Start the processes of distributed training."""

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
    """Run ``main_func(*args)`` in ``num_gpus_per_machine`` processes. Must be called on each machine.

    The processes communicate with NCCL and use one GPU each, or without CUDA with gloo. If there is only one process in
    total, ``main_func`` runs in the calling process.

    Args:
        main_func: the function to run. It must be importable, because it is pickled by name.
        num_gpus_per_machine: number of processes per machine.
        num_machines: number of machines.
        machine_rank: index of this machine, from 0.
        dist_url: address where the processes connect, e.g. "tcp://127.0.0.1:8686". "auto" takes a free port of this
            machine.
        args: arguments of ``main_func``.
        timeout: how long processes wait for each other.

    Raises:
        ValueError: ``dist_url`` is "auto" and there are several machines, or there are fewer GPUs than processes.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        if num_machines != 1:
            raise ValueError("dist_url 'auto' works on one machine only: give the address of the first one")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    num_gpus = torch.cuda.device_count()
    if torch.cuda.is_available() and num_gpus_per_machine > num_gpus:
        raise ValueError(f"num_gpus_per_machine is {num_gpus_per_machine}, but this machine has {num_gpus} GPUs")
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
        logging.getLogger(__name__).error(f"The processes could not connect at {dist_url}")
        raise
    comm.create_local_process_group(per_machine)
    if cuda:
        torch.cuda.set_device(local_rank)
    comm.synchronize()
    main_func(*args)
