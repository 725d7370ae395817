"""A checkpointer that writes files atomically and reports clearly when a checkpoint does not fit the model."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import IO, Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from torch import nn

from ..errors import InputError, first_few
from ..files import atomic_file
from ..model_zoo.models import PREFIX, get_model_folder
from .input_channels import adapt_first_convolution
from .resume_checks import check_resumed_optimizer
from .safe_pickle import check_pickle
from .weight_averaging import WeightAverage
from .weights_file import weights_in, why_unreadable

logger = logging.getLogger(__name__)

# The entry of a checkpoint with the values, by full config key, that its weights need: see tools/convert_fcis_mxnet.py.
NEEDED_CONFIG = "needed_config"

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
    """Detectron2's checkpointer with atomic writes and with a check that the loaded checkpoint fits the model.

    Args:
        model, save_dir, save_to_disk, checkpointables: see ``DetectionCheckpointer``.
        cfg: the model's config. Converted weights say which values they need, and others give a warning.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, cfg: CfgNode | None = None,
        **checkpointables: Any,
    ) -> None:  # fmt: skip
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.cfg = cfg
        self.path_manager = AtomicPathManager(self.path_manager)
        self.average: WeightAverage | None = None
        self._loaded_names: set[str] = set()
        self._incompatible: Any = None
        self._resuming = self._must_fit = False

    @classmethod
    def from_checkpointer(cls, other: DetectionCheckpointer) -> Checkpointer:
        """Return a ``Checkpointer`` with the model, folder and checkpointables of ``other``."""
        return cls(other.model, other.save_dir, save_to_disk=other.save_to_disk, **other.checkpointables)

    def save(self, name: str, **kwargs: Any) -> None:
        """Save the checkpoint ``name``.pth; its model has the averaged weights, if the training averages them."""
        with self.average.in_model() if self.average else contextlib.nullcontext():
            super().save(name, **kwargs)

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
            InputError: the file is missing, is not a checkpoint, has values that are not finite, or belongs to another
                model or, when resuming, to another optimizer.
        """
        self._resuming, self._must_fit = resume and self.has_checkpoint(), must_fit
        path = self.get_checkpoint_file() if self._resuming else path
        if not path and must_fit:
            raise InputError("MODEL.WEIGHTS is '', expected the trained weights: a file such as output/model_final.pth")
        check_exists(path)
        try:
            rest = self.load(path) if self._resuming else self.load(path, checkpointables=[])
        except OSError as error:
            raise InputError(
                f"checkpoint {path} cannot be fetched: {error}. Without a network, copy the file here and set "
                "MODEL.WEIGHTS to its path, or to '' to train from random weights"
            ) from error
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"checkpoint {path} cannot be read: {error}") from error
        if path:
            self._check_fit(path, must_fit or self._resuming)
        if self.cfg is not None and isinstance(rest.get(NEEDED_CONFIG), dict):
            _warn_other_config(path, rest[NEEDED_CONFIG], self.cfg)
        return rest

    def _load_file(self, path: str) -> dict[str, Any]:
        try:
            if path.endswith(".pkl"):
                check_pickle(path)
            loaded = super()._load_file(path)
        except Exception as error:  # broken zip files and pickles raise errors of any kind
            raise InputError(f"checkpoint {path} cannot be read: {why_unreadable(path, error)}") from error
        if not isinstance(loaded, dict):
            raise InputError(f"checkpoint {path} holds a {type(loaded).__name__}, expected a dict of weights")
        loaded["model"] = weights_in(path, loaded, self.model.state_dict())
        if not (self._must_fit or self._resuming):
            loaded["model"] = adapt_first_convolution(path, loaded["model"], self.model)
        saved = loaded.get("trainer")
        trainer = self.checkpointables.get("trainer")
        if self._resuming and trainer is not None and isinstance(saved, dict):
            saved_optimizer = saved.get("_trainer", saved).get("optimizer")
            if saved_optimizer is not None:
                check_resumed_optimizer(path, saved_optimizer, trainer.optimizer.state_dict())
        return loaded

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


def _warn_other_config(path: str, needed: dict[str, Any], cfg: CfgNode) -> None:
    """Warn once of all values of ``cfg`` with which converted weights give other results."""
    values = {key: _value_of(cfg, key) for key in needed}
    others = [
        f"{key} is {values[key]}, expected {value}"
        for key, value in needed.items()
        if values[key] != (tuple(value) if isinstance(values[key], tuple) else value)
    ]
    if others:
        logger.warning(
            "%s: these weights need a config with other values, results will be wrong:\n  %s", path, "\n  ".join(others)
        )


def _value_of(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg.get(part) if isinstance(cfg, CfgNode) else None
    return cfg


def check_exists(path: str) -> None:
    """Check that ``path`` is "", an address or an existing file; it may end with "?matching_heuristics=True".

    Raises:
        InputError: there is no such file, or no trained model of that name.
    """
    file = path.partition("?")[0]
    if file.startswith(PREFIX):
        get_model_folder(file)
    elif file and "://" not in file and not os.path.isfile(file):
        raise InputError(f"checkpoint {file} {'is a folder' if os.path.isdir(file) else 'does not exist'}")


def check_weights(cfg: CfgNode, resume: bool, needed: bool) -> None:
    """Check, before a model is built, that the weights a run starts with exist.

    Args:
        cfg: the config.
        resume: the run goes on with the last checkpoint in ``OUTPUT_DIR``, if there is one.
        needed: the run makes no sense without weights.

    Raises:
        InputError: the file is missing, or no file is named although weights are needed.
    """
    if resume and os.path.isfile(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")):
        return
    if needed and not cfg.MODEL.WEIGHTS:
        raise InputError(
            "MODEL.WEIGHTS is '', so that an untrained model would be evaluated: add MODEL.WEIGHTS and a file such as "
            f"{os.path.join(cfg.OUTPUT_DIR, 'model_final.pth')}"
        )
    check_exists(cfg.MODEL.WEIGHTS)
