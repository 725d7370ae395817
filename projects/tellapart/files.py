"""Files that are written completely or not at all, and the cache folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .errors import InputError


def cache_dir() -> Path:
    """Return the cache folder: ``$TELLAPART_CACHE``, or ``~/.cache/tellapart``. It is not created."""
    return Path(os.environ.get("TELLAPART_CACHE") or Path.home() / ".cache" / "tellapart").expanduser()


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Return the path of a temporary file beside ``path`` that replaces ``path`` when the block ends without an error.

    After an error ``path`` is unchanged and the temporary file is removed.

    Raises:
        OSError: the block did not write the file, or it cannot be renamed.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def atomic_file(path: str | Path, mode: str = "w", **kwargs: Any) -> Iterator[IO]:
    """Open a temporary file beside ``path`` that replaces ``path`` when the block ends without an error.

    After an error ``path`` is unchanged and the temporary file is removed. The content is on disk before the file is
    renamed, so a crash leaves either the old or the new file.

    Args:
        path: a local path; its folder must exist.
        mode: "w" or "wb".
        **kwargs: passed to ``open``.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_path(path) as temporary, open(temporary, mode, **kwargs) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | Path, content: dict | list) -> None:
    """Write ``content`` as JSON with :func:`atomic_file`; create the folder of ``path``.

    Raises:
        InputError: the file cannot be written.
    """
    text = json.dumps(content)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def atomic_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """Create a temporary folder beside ``target`` that becomes ``target`` when the block ends without an error.

    Several processes may write the same target at the same time: the first one that finishes sets the target, and the
    equal work of the others is deleted. A killed process leaves a ``.tmp-*`` folder, never an incomplete target.

    Args:
        target: the folder to create.
        replace: whether an existing target is replaced.

    Raises:
        InputError: the parent folder of ``target`` is not writable.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".tmp-{target.name}-", dir=target.parent))
    except OSError as error:
        raise InputError(
            f"{target.name} cannot be written into {target.parent}: {error}. Set TELLAPART_CACHE to a writable folder"
        ) from error
    try:
        yield work
        os.chmod(work, 0o755)  # mkdtemp creates it with mode 700, but a shared cache is read by other users
        if replace:
            shutil.rmtree(target, ignore_errors=True)
        try:
            os.replace(work, target)
        except OSError:
            if not target.is_dir():  # if it exists, another process has finished first
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
