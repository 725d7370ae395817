"""The error for invalid input, and how every command reports it.

Commands exit with code 2 for invalid input (as argparse does for unknown flags) and with code 130 after Ctrl-C.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping

EXIT_INVALID_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class InputError(ValueError):
    """Something that the user provided (file, config key, data set, checkpoint) is missing, invalid or inconsistent."""


def did_you_mean(
    name: str, known: Iterable[str] | Mapping[str, str], num_suggestions: int = 1, cutoff: float = 0.6
) -> str:
    """Return the end of a message that suggests the known names most similar to ``name``.

    Args:
        name: the unknown name.
        known: all valid names, or a mapping from these to the texts to suggest for them.
        num_suggestions: the maximum number of suggestions.
        cutoff: the minimum similarity of a suggestion, from 0 to 1.

    Returns:
        "; did you mean A or B?", or "" if no known name is similar.
    """
    texts = known if isinstance(known, Mapping) else {one: one for one in known}
    similar = difflib.get_close_matches(name, list(texts), n=num_suggestions, cutoff=cutoff)
    return f"; did you mean {' or '.join(texts[one] for one in similar)}?" if similar else ""


def first_few(names: Iterable[str], limit: int = 3) -> str:
    """Join the first ``limit`` names and the number of the others, for a message."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def print_error(error: InputError) -> None:
    """Print the message of ``error`` to stderr, without a traceback."""
    print(f"error: {error}", file=sys.stderr, flush=True)


def run_command(main: Callable[[], object]) -> None:
    """Run ``main()`` of a command; exit with code 2 and a message on ``InputError``, with code 130 on Ctrl-C."""
    try:
        main()
    except InputError as error:
        print_error(error)
        sys.exit(EXIT_INVALID_INPUT)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
