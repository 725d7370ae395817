"""The error that stands for bad input: `train_net.py` prints its message, no traceback, and exits with code 2."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Mapping


class InputError(ValueError):
    """What the user gave (a file, a key, a data set, a checkpoint) is missing, broken or contradicts something else."""


def check_keys(section: str, options: Mapping[str, object], checks: Iterable[tuple[str, bool, str]]) -> None:
    """The one message for a config's value that makes no sense.

    Args:
        section: of the config, "MODEL.FCIS".
        options: its keys and values.
        checks: of each key, in order: whether its value fits, and what is wanted.

    Raises:
        InputError: names the first key that does not fit, what it is and what is wanted.
    """
    for key, fits, wanted in checks:
        if not fits:
            raise InputError(f"{section}.{key} is {options[key]!r}, wanted {wanted}")


def check_mask_on(model: Mapping[str, object], learner: str) -> None:
    """``learner`` needs masks, which loaders bring only with ``MASK_ON`` in the config's section ``MODEL``.

    Raises:
        InputError: it is off.
    """
    if not model["MASK_ON"]:
        raise InputError(f"MODEL.MASK_ON is False, but {learner} learns from masks: set it to True")


def run_command(main: Callable[[], None]) -> None:
    """Runs `main()` of a script; of an InputError it prints the message, no traceback, and exits with code 1, of Ctrl-C
    with code 130."""
    try:
        main()
    except InputError as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
