"""One training at a time in an output folder."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from detectron2.utils import comm
from filelock import FileLock, Timeout

from ..errors import InputError

logger = logging.getLogger(__name__)
_NAME = ".training.lock"
# The loader's workers of a killed training, which share its lock, end within five seconds.
_WAIT_S = 10


@contextlib.contextmanager
def only_training_in(folder: str) -> Iterator[None]:
    """Keep other trainings out of ``folder``, which is created, while the block runs.

    The main process holds the lock; call this in all processes. The operating system releases the lock of a process
    that was killed.

    Raises:
        InputError: another training writes to ``folder``, in all processes; or ``folder`` cannot be created.
    """
    path, problem = os.path.join(folder, _NAME), ""
    lock = FileLock(path)
    if comm.is_main_process():
        try:
            os.makedirs(folder, exist_ok=True)
            lock.acquire(timeout=_WAIT_S)
        except Timeout:
            problem = (
                f"OUTPUT_DIR {folder}: another training that still runs writes there (it holds {path}): wait for it, "
                "stop it, or choose another folder"
            )
        except NotImplementedError as error:  # some network file systems
            logger.warning("%s cannot be locked: do not start a second training there (%s)", folder, error)
        except OSError as error:
            problem = f"OUTPUT_DIR {folder} cannot be written: {error}"
    problem = comm.all_gather(problem)[0]
    if problem:
        raise InputError(problem)
    try:
        yield
    finally:
        lock.release()
