"""A checkpointer that writes files atomically and reports clearly when a checkpoint does not fit the model."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from typing import IO, Any

from detectron2.checkpoint import DetectionCheckpointer

from ..errors import InputError, first_few
from ..files import atomic_file

# The maximum number of parameter names in a message.
_MAX_NAMES = 5


class AtomicPathManager:
    """A path manager that writes local files atomically: to a temporary file first, which is then renamed."""

    def __init__(self, path_manager: Any) -> None:
        self._path_manager = path_manager

    def __getattr__(self, name: str) -> Any:
        return getattr(self._path_manager, name)

    def open(self, path: str, mode: str = "r", **kwargs: Any) -> contextlib.AbstractContextManager[IO]:
        """Open ``path`` as the wrapped path manager does, but write local files atomically."""
        if "w" not in mode or "://" in path:
            return self._path_manager.open(path, mode, **kwargs)
        return atomic_file(path, mode, **kwargs)


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes and with a check that the loaded checkpoint fits the model."""

    def __init__(self, model, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = AtomicPathManager(self.path_manager)
        self._loaded_names: set[str] = set()
        self._incompatible: Any = None

    @classmethod
    def from_checkpointer(cls, other: DetectionCheckpointer) -> Checkpointer:
        """Return a ``Checkpointer`` with the model, folder and checkpointables of ``other``."""
        return cls(other.model, other.save_dir, save_to_disk=other.save_to_disk, **other.checkpointables)

    def resume_or_load(self, path: str, *, resume: bool = True, must_fit: bool = False) -> dict[str, Any]:
        """Load ``path``, or the last checkpoint of the output folder if ``resume`` is set and there is one.

        Args:
            path: file or URL of a checkpoint; "" loads nothing.
            resume: prefer the last checkpoint in ``save_dir``, and load the checkpointables (optimizer, ...) too.
            must_fit: require every parameter in the checkpoint, with the model's shape. This is always required when
                resuming. Otherwise one fitting parameter is enough: fine-tuning adds new heads to a trained backbone.

        Returns:
            The contents of the checkpoint other than the model.

        Raises:
            InputError: the file is missing, is not a checkpoint, or belongs to another model.
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
            self._check_fit(path, must_fit or resuming)
        return rest

    def _load_model(self, checkpoint: Any) -> Any:
        # Detectron2 only logs the incompatible keys, and only this method returns them.
        self._loaded_names = set(checkpoint["model"])
        self._incompatible = super()._load_model(checkpoint)
        return self._incompatible

    def _check_fit(self, path: str, must_fit: bool) -> None:
        if self._incompatible is None:
            raise InputError(f"checkpoint {path} contains no model")
        parameters = {name for name, _ in self.model.named_parameters()}
        missing = sorted(parameters & set(self._incompatible.missing_keys))
        wrong_shapes = [entry for entry in self._incompatible.incorrect_shapes if entry[0] in parameters]
        none_fits = len(missing) + len(wrong_shapes) == len(parameters)
        if not none_fits and not (must_fit and (missing or wrong_shapes)):
            return
        lines = [f"checkpoint {path} does not fit this model ({type(self.model).__name__}):"]
        if missing:
            names = first_few(missing, _MAX_NAMES)
            lines.append(f"  {len(missing)} of the model's {len(parameters)} parameters are missing: {names}")
        if wrong_shapes:
            shapes = [
                f"{name} is {tuple(in_file)}, expected {tuple(in_model)}" for name, in_file, in_model in wrong_shapes
            ]
            lines.append(f"  {len(shapes)} parameters have another shape: {first_few(shapes, _MAX_NAMES)}")
        unknown = sorted(set(self._incompatible.unexpected_keys) & self._loaded_names)
        if unknown:
            total, names = len(self._loaded_names), first_few(unknown, _MAX_NAMES)
            lines.append(f"  {len(unknown)} of the checkpoint's {total} tensors are not in the model: {names}")
        raise InputError("\n".join(lines))
