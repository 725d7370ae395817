"""Where generated data lies on disk, and how it gets there in one piece."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tellapart.errors import InputError


def cache_dir() -> Path:
    """`$TELLAPART_CACHE`, else `~/.cache/tellapart` (not created here)."""
    return Path(os.environ.get("TELLAPART_CACHE") or Path.home() / ".cache" / "tellapart").expanduser()


@contextmanager
def build_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """
    A temporary folder beside `target` to write into; when the block ends without an error it becomes `target`, in the
    place of an older one if `replace` is set.

    Several processes may build the same target at once: the first to finish wins and the others' work, which is the
    same, is thrown away. A process that is killed leaves a `.tmp-*` folder but never half a target.

    Raises:
        InputError: the folder that shall hold `target` can't be written to.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".tmp-{target.name}-", dir=target.parent))
    except OSError as error:
        raise InputError(
            f"Can't write {target.name} into {target.parent}: {error}. TELLAPART_CACHE names the cache folder"
        ) from error
    try:
        yield work
        os.chmod(work, 0o755)  # mkdtemp makes it private; a shared cache is read by others
        if replace:
            shutil.rmtree(target, ignore_errors=True)
        try:
            os.replace(work, target)
        except OSError:
            if not target.is_dir():  # not a lost race, for that leaves the winner's folder there
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
