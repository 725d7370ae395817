"""Communication between the processes of a job. Without ``torch.distributed`` there is one process."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.distributed as dist

_LOCAL_PROCESS_GROUP = None
_MISSING_LOCAL_PG = (
    "The process group of this machine does not exist: start the processes with detectron2.engine.launch(), or call "
    "comm.create_local_process_group(processes_per_machine) after torch.distributed.init_process_group()."
)


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Return the number of processes on all machines."""
    return dist.get_world_size() if _initialized() else 1


def get_rank() -> int:
    """Return the rank of this process among those of all machines."""
    return dist.get_rank() if _initialized() else 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Create the process group of this machine. All processes must call it.

    The ranks of the processes on a machine are consecutive.

    Raises:
        ValueError: the number of processes is not a multiple of ``num_workers_per_machine``.
    """
    global _LOCAL_PROCESS_GROUP
    world = get_world_size()
    if world % num_workers_per_machine:
        raise ValueError(f"there are {world} processes, expected a multiple of {num_workers_per_machine} per machine")
    for first in range(0, world, num_workers_per_machine):  # every process must call new_group for every group
        ranks = list(range(first, first + num_workers_per_machine))
        group = dist.new_group(ranks)
        if get_rank() in ranks:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group():
    """Return the group of `create_local_process_group`."""
    assert _LOCAL_PROCESS_GROUP is not None, _MISSING_LOCAL_PG
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Return the rank of this process among those of its machine."""
    return dist.get_rank(group=get_local_process_group()) if _initialized() else 0


def is_main_process() -> bool:
    """Return whether this is the process of rank 0, which logs and writes files."""
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
    """Return a gloo group of all processes, which sends pickled objects without copying them to GPUs."""
    return dist.new_group(backend="gloo") if dist.get_backend() == dist.Backend.NCCL else dist.group.WORLD


def all_gather(data, group=None) -> list:
    """Gather picklable ``data`` of all processes of ``group`` (default: all) into a list on each."""
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
    """Like `all_gather`, but only rank ``dst`` receives the list. The others receive an empty one."""
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
    """Return a seed below 2**31, the same in all processes. All of them must call it.

    Rank 0 draws it from numpy's global generator.
    """
    return all_gather(int(np.random.randint(2**31)))[0]
