"""A checkpointer that never leaves half a file and says clearly when a checkpoint does not fit the model."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from typing import IO, Any

from detectron2.checkpoint import DetectionCheckpointer

from ..errors import InputError
from ..files import atomic_file

# how many parameter names a message lists
_SHOWN = 5


class AtomicPathManager:
    """A path manager whose local files appear whole or not at all (written beside, then renamed)."""

    def __init__(self, path_manager: Any) -> None:
        self._path_manager = path_manager

    def __getattr__(self, name: str) -> Any:
        return getattr(self._path_manager, name)

    def open(self, path: str, mode: str = "r", **kwargs: Any) -> contextlib.AbstractContextManager[IO]:
        """As the wrapped one's; writing to a local path goes through a temporary file."""
        if "w" not in mode or "://" in path:
            return self._path_manager.open(path, mode, **kwargs)
        return atomic_file(path, mode, **kwargs)


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes and with a verdict on what was loaded."""

    def __init__(self, model, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = AtomicPathManager(self.path_manager)
        self._names: tuple[set[str], Any] | None = None

    def resume_or_load(self, path: str, *, resume: bool = True, must_fit: bool = False) -> dict[str, Any]:
        """Load ``path``, or with ``resume`` the newest checkpoint of the output folder where there is one.

        Args:
            must_fit: every parameter has to come from the checkpoint with its shape (evaluation); always so when
                resuming. Otherwise it is enough that some do: a new head on a known backbone is how fine-tuning starts.

        Returns:
            What the checkpoint holds beside the model.

        Raises:
            InputError: no such file, not a checkpoint, or one of another model.
        """
        resuming = resume and self.has_checkpoint()
        path = self.get_checkpoint_file() if resuming else path
        if path and "://" not in path and not os.path.isfile(path):
            raise InputError(f"checkpoint {path} does not exist")
        try:
            rest = self.load(path) if resuming else self.load(path, checkpointables=[])
        except (EOFError, pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, KeyError) as error:
            raise InputError(f"checkpoint {path} cannot be read: {error}") from error
        if path:
            self._check_fit(path, whole=must_fit or resuming)
        return rest

    def _load_model(self, checkpoint: Any) -> Any:
        # the only place where what was missing is known; Detectron2 itself only logs it
        found = set(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        self._names = (found, incompatible)
        return incompatible

    def _check_fit(self, path: str, whole: bool) -> None:
        if self._names is None:
            raise InputError(f"checkpoint {path} holds no model")
        found, incompatible = self._names
        wanted = set(dict(self.model.named_parameters()))
        missing = sorted(wanted & set(incompatible.missing_keys))
        shapes = [entry for entry in incompatible.incorrect_shapes if entry[0] in wanted]
        nothing_fits = len(missing) + len(shapes) == len(wanted)
        if not nothing_fits and not (whole and (missing or shapes)):
            return
        lines = [f"checkpoint {path} is not of this model ({type(self.model).__name__}):"]
        if missing:
            lines.append(f"  {len(missing)} of {len(wanted)} parameters are not in it: {_some(missing)}")
        if shapes:
            shown = [f"{name} is {tuple(theirs)} there, {tuple(ours)} here" for name, theirs, ours in shapes]
            lines.append(f"  {len(shapes)} have another shape: {_some(shown)}")
        unknown = sorted(set(incompatible.unexpected_keys) & found)
        if unknown:
            lines.append(f"  {len(unknown)} of its {len(found)} are not in the model: {_some(unknown)}")
        raise InputError("\n".join(lines))


def _some(names: list[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
