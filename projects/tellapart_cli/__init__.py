"""The command line ``tellapart``.

This is a package of its own because importing ``tellapart`` imports torch, which takes seconds. Its modules import
``tellapart`` only when a command runs, so that ``tellapart --help`` answers without delay.
"""

from __future__ import annotations

import argparse
import importlib
import sys

# Name of a command -> its module in this package, and its line in ``tellapart --help``. A module has the functions
# ``add_arguments(parser)``, which must not import torch, and ``run(args)``.
COMMANDS = {
    "train": ("train", "train a model and evaluate it"),
    "eval": ("eval", "evaluate a trained model"),
    "check": ("check", "check data sets before training"),
    "predict": ("predict", "predict images with a trained model"),
    "report": ("report", "write a page about a trained model"),
    "explain": ("explain", "draw how a model finds an instance"),
    "show": ("show", "draw the annotations of a data set"),
    "split": ("split", "split a data set into parts for training and validation"),
}


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; the parsed arguments have the command's ``run`` function as ``run``."""
    parser = argparse.ArgumentParser(
        prog="tellapart", description="Position-aware instance segmentation: FCIS, InstanceFCN, semi-convolution."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    for name, (module_name, summary) in COMMANDS.items():
        module = importlib.import_module(f"{__name__}.{module_name}")
        command = commands.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command that ``argv`` (by default ``sys.argv[1:]``) names.

    Exit codes: 0 on success, 2 for invalid flags or input, 130 after Ctrl-C.
    """
    args = argument_parser().parse_args(argv)
    try:
        from tellapart.errors import run_command
    except KeyboardInterrupt:
        sys.exit(130)
    run = vars(args).pop("run")
    run_command(lambda: run(args))
