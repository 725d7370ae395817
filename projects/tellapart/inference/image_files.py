"""Find the image files that a command names, and a name for the results of each."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError, first_few

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".ppm", ".pgm", ".pnm")


def find_images(names: Sequence[str | Path]) -> list[Path]:
    """Return image files in the order of the arguments, each once.

    Args:
        names: files; patterns with ``*``, ``?``, ``[]`` or ``**``; or folders, of which all files with the extension of
            an image are taken, by name, without hidden files and subfolders.

    Raises:
        InputError: a file, folder or match does not exist.
    """
    files: dict[Path, None] = {}
    for name in map(str, names):
        path = Path(name).expanduser()
        if path.is_dir():
            found = sorted(f for f in path.iterdir() if f.suffix.lower() in EXTENSIONS and not f.name.startswith("."))
            if not found:
                folders = sorted(f.name for f in path.iterdir() if f.is_dir())
                hint = f"; it has the folders {first_few(folders)}" if folders else ""
                raise InputError(f"folder {name} has no image: expected files {', '.join(EXTENSIONS[:5])}, ...{hint}")
        elif path.exists():
            found = [path]
        else:
            found = [Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if os.path.isfile(match)]
            if not found:
                raise InputError(f"there is no file, folder or match for {name}")
        files.update(dict.fromkeys(found))
    return list(files)


def result_names(files: Sequence[Path]) -> list[str]:
    """Return a name for the results of each file: its path below the folder that all have in common, without extension.

    The extension stays where two names would be equal otherwise.
    """
    absolute = [Path(os.path.abspath(file)) for file in files]
    root = os.path.commonpath([file.parent for file in absolute]) if absolute else ""
    relative = [file.relative_to(root) for file in absolute]
    short = [path.with_suffix("").as_posix() for path in relative]
    counts = Counter(name.lower() for name in short)
    return [path.as_posix() if counts[name.lower()] > 1 else name for path, name in zip(relative, short)]
