"""Run a function in one process, in several (Detectron2's ``launch``), or in those of ``torchrun`` or ``srun``."""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import defaults
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm

from ..data.worker_signals import STOP_SIGNALS
from ..errors import EXIT_INVALID_INPUT, InputError, print_error
from .cluster import is_launched, join_processes, join_slurm_tasks


def launch(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Run ``main(args)`` in one or several processes.

    Under ``torchrun``, and as one of several tasks of ``srun``, this process joins the others: with NCCL if every local
    process has a GPU, else with gloo. Otherwise ``num_gpus``, ``num_machines``, ``machine_rank`` and ``dist_url`` of
    ``args`` go to Detectron2's ``launch``.

    Args:
        main: a function that can be pickled.
        args: the parsed command line.

    Raises:
        InputError: there are fewer GPUs than requested, or ``main`` raises it in the only process. If there are several
            processes, the first one prints the message, and all of them exit with code 2.
    """
    join_slurm_tasks(args.num_gpus, args.num_machines)
    if is_launched():
        _join(main, args)
        return
    if args.num_gpus > 1 and args.num_gpus > torch.cuda.device_count():
        raise InputError(
            f"--num-gpus is {args.num_gpus}, but this machine has {torch.cuda.device_count()} GPUs; to start several "
            f"processes on CPUs: torchrun --nproc_per_node={args.num_gpus} -m tellapart train ..."
        )
    try:
        with _pass_on_signals() if args.num_gpus * args.num_machines > 1 else contextlib.nullcontext():
            detectron2_launch(
                _ReportOnce(main),
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
    except mp.ProcessExitedException as error:
        # The worker process has printed its message already.
        sys.exit(error.exit_code)


class _ReportOnce:
    """``main`` for one of several processes: on ``InputError`` all exit with code 2 and the first prints the message.

    This is a class because a spawned process needs a callable that can be pickled.
    """

    def __init__(self, main: Callable[[argparse.Namespace], Any]) -> None:
        self.main = main

    def __call__(self, args: argparse.Namespace) -> None:
        try:
            self.main(args)
        except InputError as error:
            if comm.get_world_size() == 1:
                raise
            if comm.is_main_process():
                print_error(error)
            sys.exit(EXIT_INVALID_INPUT)


@contextlib.contextmanager
def _pass_on_signals() -> Iterator[None]:
    """Send the signals that stop a training to the processes that this one starts, and wait for them.

    On Ctrl-C the terminal signals them itself, and a second signal would end them without a checkpoint.
    """

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            for process in multiprocessing.active_children():
                os.kill(process.pid, number)

    previous_handlers = {number: signal.signal(number, pass_on) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


def _join(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    local_rank = int(os.environ["LOCAL_RANK"])
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    num_visible = torch.cuda.device_count()
    # SLURM can show each task only its own GPU.
    is_bound = num_visible == 1 and "SLURM_PROCID" in os.environ
    on_gpu = num_visible >= local_size or is_bound
    if on_gpu:
        torch.cuda.set_device(0 if is_bound else local_rank)
    join_processes("nccl" if on_gpu else "gloo")
    try:
        comm.create_local_process_group(local_size)
        comm.synchronize()
        with contextlib.nullcontext() if on_gpu else _ddp_on_cpu():
            _ReportOnce(main)(args)
        comm.synchronize()  # No process leaves while another one still communicates.
    finally:
        _destroy_process_groups()


@contextlib.contextmanager
def _ddp_on_cpu() -> Iterator[None]:
    """Let Detectron2's trainer wrap a model on the CPU in DistributedDataParallel.

    ``DefaultTrainer.__init__`` calls ``defaults.create_ddp_model``, which passes ``device_ids`` for the model. DDP
    refuses ``device_ids`` for a model on the CPU. The trainer has no parameter for it, so the function is replaced
    while the block runs.
    """
    original = defaults.create_ddp_model
    defaults.create_ddp_model = functools.partial(original, device_ids=None)
    try:
        yield
    finally:
        defaults.create_ddp_model = original


def _destroy_process_groups() -> None:
    """Destroy all process groups and end their threads.

    The threads of a gloo group run until the last reference to the group is gone. If they still run when the
    interpreter exits, they can abort it. ``detectron2.utils.comm`` keeps references in module globals and in a cache,
    and has no function that releases them. Therefore they are cleared here.
    """
    for name in [name for name, value in vars(comm).items() if isinstance(value, dist.ProcessGroup)]:
        setattr(comm, name, None)
    comm._get_global_gloo_group.cache_clear()
    dist.destroy_process_group()
    gc.collect()  # The trainer and its hooks form a reference cycle, and the trainer's DDP model holds its group.
