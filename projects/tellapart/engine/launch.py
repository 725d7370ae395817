"""Start one process, several (Detectron2's ``launch``), or join those that ``torchrun`` has started."""

from __future__ import annotations

import argparse
import functools
import gc
import os
import sys
from typing import Any, Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import defaults
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm

from ..errors import InputError

EXIT_BAD_INPUT = 2


def under_torchrun() -> bool:
    """Whether ``torchrun`` (or a scheduler that sets the same variables) has started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"))


def launch(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Run ``main(args)`` in as many processes as asked for; exit with code 2 on ``InputError``.

    Under ``torchrun`` this process is one of those it started: NCCL where every local process has a GPU, else gloo.
    Otherwise ``--num-gpus``, ``--num-machines``, ``--machine-rank`` and ``--dist-url`` say it, as for Detectron2's
    ``launch``.
    """
    try:
        if under_torchrun():
            _join_torchrun(main, args)
            return
        # more GPUs than there are fail ten layers down otherwise
        if args.num_gpus > 1 and args.num_gpus > torch.cuda.device_count():
            raise InputError(
                f"--num-gpus {args.num_gpus}: this machine has {torch.cuda.device_count()} GPU(s); "
                f"on CPUs start several processes with: torchrun --nproc_per_node={args.num_gpus} train_net.py ..."
            )
        detectron2_launch(
            _Guarded(main),
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except InputError as error:
        _complain(error)
    except mp.ProcessExitedException as error:
        # a worker has said why and exited; its code is ours
        sys.exit(error.exit_code)


class _Guarded:
    """``main`` for a spawned worker (so it can be pickled), where ``InputError`` becomes a message and exit code 2."""

    def __init__(self, main: Callable[[argparse.Namespace], Any]) -> None:
        self.main = main

    def __call__(self, args: argparse.Namespace) -> None:
        try:
            self.main(args)
        except InputError as error:
            if comm.get_world_size() == 1:
                raise
            _complain(error)


def _complain(error: InputError) -> None:
    # every process meets the same bad input: one of them says it
    if int(os.environ.get("RANK", 0)) == 0 and comm.get_rank() == 0:
        print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(EXIT_BAD_INPUT)


def _join_torchrun(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    local_rank = int(os.environ["LOCAL_RANK"])
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    on_gpu = torch.cuda.is_available() and torch.cuda.device_count() >= local_size
    if on_gpu:
        torch.cuda.set_device(local_rank)
    else:
        # Detectron2 always passes device_ids, which DistributedDataParallel refuses for a model on the CPU.
        defaults.create_ddp_model = functools.partial(defaults.create_ddp_model, device_ids=None)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        comm.create_local_process_group(local_size)
        comm.synchronize()
        main(args)
        comm.synchronize()  # nobody leaves while another one still talks
    finally:
        # gloo's threads end with the last reference to their group; left to the interpreter's end they can abort it
        for name in [name for name, value in vars(comm).items() if isinstance(value, dist.ProcessGroup)]:
            setattr(comm, name, None)
        comm._get_global_gloo_group.cache_clear()
        dist.destroy_process_group()
        gc.collect()  # the trainer, which is in a cycle with its hooks, holds the model's group
