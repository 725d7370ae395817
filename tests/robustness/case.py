"""One robustness case: an input with one property, the run that reads it, and what is expected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .coco_set import NUM_OBJECTS, Edit, write_set


@dataclass(frozen=True)
class Trains:
    """The run ends with exit code 0, finite losses and an evaluation.

    Attributes:
        objects: number of objects (not crowds) in the training loader; None is not checked.
        counted: number of ground-truth objects (not crowds) in the evaluation; None: as ``objects``.
        says: regular expressions that the output must match, case-insensitive.
        evaluates: False if there is nothing to compare with; the results must still be written.
    """

    objects: int | None = NUM_OBJECTS
    counted: int | None = None
    says: tuple[str, ...] = ()
    evaluates: bool = True


@dataclass(frozen=True)
class Refused:
    """The run ends with exit code 2 before the first iteration, and prints one message without traceback.

    Attributes:
        says: regular expressions that the message must match, case-insensitive.
    """

    says: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """What a case's function has written.

    Attributes:
        sets: (name, JSON path, image folder) to register by ``--register``.
        train: names for DATASETS.TRAIN.
        test: names for DATASETS.TEST.
        options: further KEY VALUE words.
    """

    sets: tuple[tuple[str, Path, Path], ...]
    train: tuple[str, ...] = ("mine",)
    test: tuple[str, ...] = ("mine",)
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        id: unique name of the row.
        build: writes the input into a folder; returns what to register, or None for ``a.json`` and ``images``.
        expect: what the run must do.
        options: KEY VALUE words; "{folder}" in them is the case's folder.
        flags: command-line flags such as "--eval-only".
        weights: start with trained weights; ``build`` finds their path as ``weights.pth`` in its folder.
        models: names of the kinds of model to run.
        process: run in a process of its own, with a time limit, as a user does.
    """

    id: str
    build: Callable[[Path], Inputs | None]
    expect: Trains | Refused
    options: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    weights: bool = False
    models: tuple[str, ...] = ("fcis",)
    process: bool = False


def one_set(folder: Path) -> Inputs:
    """Return the inputs that most cases have: ``a.json`` and ``images`` as "mine"."""
    return Inputs((("mine", folder / "a.json", folder / "images"),))


def edited(*edits: Edit) -> Callable[[Path], None]:
    """Return a function that writes the base set after ``edits``."""

    def build(folder: Path) -> None:
        write_set(folder, *edits)

    return build


def trains(objects: int | None = NUM_OBJECTS, *says: str, counted: int | None = None) -> Trains:
    """Shorter :class:`Trains`."""
    return Trains(objects, counted, says)


def refused(*says: str) -> Refused:
    """Shorter :class:`Refused`."""
    return Refused(says)
