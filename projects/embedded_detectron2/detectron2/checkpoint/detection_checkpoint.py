"""Save and load detectors: Detectron2's checkpoints, its model zoo's files, and ImageNet backbones."""

from __future__ import annotations

import logging
import os
import pickle
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import torch
from fvcore.common.checkpoint import Checkpointer

from detectron2.checkpoint.c2_model_loading import (
    align_and_update_state_dicts,
    convert_torchvision_names,
    is_torchvision_resnet,
)
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

# The classes and functions that a pickle of numpy arrays in plain containers refers to. None of them runs other code.
_ALLOWED = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, expected only numpy arrays in plain containers")
        return super().find_class(module, name)


class DetectionCheckpointer(Checkpointer):
    """fvcore's ``Checkpointer`` for detectors.

    It reads ``.pth`` files (tensors and plain values only), ``.pkl`` files of Detectron2's model zoo and of Caffe2, and
    torchvision's ResNet weights. Weights of Caffe2 and torchvision, and those of a file with the entry
    ``"matching_heuristics": True``, are matched to the model by the ends of their names.

    It writes a dict with the entries "model" (the state dict), one per checkpointable, and the arguments of `save`.
    """

    def __init__(
        self, model: torch.nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables
    ):
        """
        Args:
            model: model to save and load.
            save_dir: folder that `save` writes to.
            save_to_disk: whether this process writes files. By default only the main process does.
            checkpointables: other objects to save and load: they have ``state_dict`` and ``load_state_dict``.
        """
        if save_to_disk is None:
            save_to_disk = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager
        self._matching_heuristics = False

    def load(self, path: str, *args, **kwargs) -> dict[str, Any]:
        """Load a checkpoint into the model and the checkpointables.

        Args:
            path: file or address; empty to load nothing. With "?matching_heuristics=True" at its end, the weights are
                matched to the model by the ends of their names.

        Returns:
            The other entries of the file.

        Raises:
            pickle.UnpicklingError: the file is not a checkpoint, or it could run code.
            OSError: some processes cannot read the file.
            ValueError: an unknown option follows the "?".
        """
        logging.getLogger(__name__).info(f"[DetectionCheckpointer] Loading from {path} ...")
        original, (path, _, query) = path, (path or "").partition("?")
        options = parse_qs(query)
        self._matching_heuristics = options.pop("matching_heuristics", None) == ["True"]
        if options:
            raise ValueError(f"Unsupported query in {original}: {sorted(options)}; there is ?matching_heuristics=True")
        if path and comm.get_world_size() > 1:
            found = comm.all_gather(os.path.isfile(self.path_manager.get_local_path(path)))
            if not all(found):
                missing = [rank for rank, ok in enumerate(found) if not ok]
                raise OSError(f"Checkpoint {path} is not found by ranks {missing}: put it on a shared disk")
        return super().load(path, *args, **kwargs)

    def _load_file(self, f: str) -> dict[str, Any]:
        try:
            if f.endswith(".pkl"):
                with open(f, "rb") as file:
                    loaded = _ArrayUnpickler(file, encoding="latin1").load()
            else:
                loaded = torch.load(f, map_location="cpu", weights_only=True)
        except Exception as e:  # broken zip files and pickles raise errors of any kind
            reason = str(e).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]  # without torch's advice
            raise pickle.UnpicklingError(f"{f} cannot be read as a checkpoint: {type(e).__name__}: {reason}") from e
        if not isinstance(loaded, dict):
            raise pickle.UnpicklingError(f"{f} holds a {type(loaded).__name__}, expected a dict of weights")
        if f.endswith(".pkl") and "__author__" not in loaded:
            # Caffe2's blobs, without those of its optimizer
            blobs = loaded.get("blobs", loaded).items()
            model = {k: v for k, v in blobs if isinstance(v, np.ndarray) and not k.endswith("_momentum")}
            return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}
        if "__author__" in loaded:
            self.logger.info(f"Reading a file from '{loaded['__author__']}'")
        if "model" not in loaded:
            loaded = {"model": loaded}
        if is_torchvision_resnet(loaded["model"]):
            self.logger.info("These are the weights of a torchvision ResNet")
            names = convert_torchvision_names(list(loaded["model"]))
            loaded["model"] = dict(zip(names, loaded["model"].values()))
            loaded["matching_heuristics"] = True
        if self._matching_heuristics:
            loaded["matching_heuristics"] = True
        return loaded

    def _load_model(self, checkpoint: dict[str, Any]):
        if checkpoint.get("matching_heuristics", False):
            self._convert_ndarray_to_tensor(checkpoint["model"])
            checkpoint["model"] = align_and_update_state_dicts(
                self.model.state_dict(),
                checkpoint["model"],
                c2_conversion=checkpoint.get("__author__") == "Caffe2",
            )
        names = set(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)

        # Constants of the config, and statistics that were merged into a norm's weight and bias, may be missing.
        known = {"pixel_mean", "pixel_std"}
        for prefix, module in self.model.named_modules():
            stats = {f"{prefix}.running_mean", f"{prefix}.running_var"}
            if isinstance(module, FrozenBatchNorm2d) and f"{prefix}.weight" in names and not stats & names:
                module.running_mean.zero_()
                module.running_var.fill_(1.0)
                known |= stats
        incompatible.missing_keys[:] = [k for k in incompatible.missing_keys if k not in known]
        incompatible.unexpected_keys[:] = [
            k for k in incompatible.unexpected_keys if k not in known and "anchor_generator.cell_anchors" not in k
        ]
        return incompatible
