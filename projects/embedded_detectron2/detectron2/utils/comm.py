"""What processes of one job say to each other. Without ``torch.distributed`` everything behaves as one process."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.distributed as dist

_LOCAL_PROCESS_GROUP = None
_MISSING_LOCAL_PG = (
    "The group of this machine's processes does not exist yet: start them with detectron2.engine.launch(), or call "
    "comm.create_local_process_group(processes_per_machine) after torch.distributed.init_process_group()."
)


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes over all machines."""
    return dist.get_world_size() if _initialized() else 1


def get_rank() -> int:
    """Number of this process over all machines, from 0."""
    return dist.get_rank() if _initialized() else 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Make the group of the processes on this machine; ranks are consecutive per machine. All processes must call it.

    Raises:
        ValueError: the world size is not a multiple of ``num_workers_per_machine``.
    """
    global _LOCAL_PROCESS_GROUP
    world = get_world_size()
    if world % num_workers_per_machine:
        raise ValueError(f"{world} processes don't divide into machines of {num_workers_per_machine}")
    for first in range(0, world, num_workers_per_machine):  # every process takes part in making every group
        ranks = list(range(first, first + num_workers_per_machine))
        group = dist.new_group(ranks)
        if get_rank() in ranks:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group():
    """The group made by `create_local_process_group`."""
    assert _LOCAL_PROCESS_GROUP is not None, _MISSING_LOCAL_PG
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return dist.get_rank(group=get_local_process_group()) if _initialized() else 0


def is_main_process() -> bool:
    """Whether this is the process that logs and writes files (rank 0)."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait for all processes."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.lru_cache(maxsize=1)
def _get_global_gloo_group():
    """A gloo group of everybody: pickled objects need not pass through GPU memory."""
    return dist.new_group(backend="gloo") if dist.get_backend() == dist.Backend.NCCL else dist.group.WORLD


def all_gather(data, group=None) -> list:
    """Gather any picklable ``data`` of every process of ``group`` (default: all); every process gets the whole list."""
    if get_world_size() == 1:
        return [data]
    group = group or _get_global_gloo_group()
    world = dist.get_world_size(group)
    if world == 1:
        return [data]
    output = [None] * world
    dist.all_gather_object(output, data, group=group)
    return output


def gather(data, dst: int = 0, group=None) -> list:
    """Like `all_gather`, but only rank ``dst`` gets the list; the others get an empty one."""
    if get_world_size() == 1:
        return [data]
    group = group or _get_global_gloo_group()
    world = dist.get_world_size(group)
    if world == 1:
        return [data]
    output = [None] * world if get_rank() == dst else None
    dist.gather_object(data, output, dst=dst, group=group)
    return output or []


def shared_random_seed() -> int:
    """A seed below 2**31 that rank 0 draws from numpy's generator; all processes must call it, and all get the same."""
    return all_gather(int(np.random.randint(2**31)))[0]
