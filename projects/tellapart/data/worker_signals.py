"""Signals in the workers of a DataLoader, which the main process needs until it has saved a checkpoint."""

from __future__ import annotations

import functools
import os
import signal
import threading

import torch

# Windows has no SIGUSR1.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


@functools.lru_cache(maxsize=1)
def stop_with_the_main_process(process: int) -> None:
    """In a worker of a DataLoader, ignore the signals that a terminal, torchrun or SLURM sends to all processes.

    ``SIGTERM`` from the main process still ends the worker: so multiprocessing ends it when the main process exits.

    Args:
        process: number of this process; each process does it once.
    """
    if torch.utils.data.get_worker_info() is None:
        return
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # on Linux; elsewhere SIGTERM ends the worker, whoever sends it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_if_the_parent_says_so, args=(os.getppid(),), daemon=True).start()


def _exit_if_the_parent_says_so(parent: int) -> None:
    """Wait for ``SIGTERM`` from the process ``parent``, and drop those of all others."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
