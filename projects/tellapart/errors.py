"""The error that stands for bad input: `train_net.py` prints its message, no traceback, and exits with code 2."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable


class InputError(ValueError):
    """What the user gave (a file, a key, a data set, a checkpoint) is missing, broken or contradicts something else."""


def run_command(main: Callable[[], None]) -> None:
    """Runs `main()` of a script; of an InputError it prints the message, no traceback, and exits with code 1, of Ctrl-C
    with code 130."""
    try:
        main()
    except InputError as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
