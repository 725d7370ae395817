"""Find a trained model: a run folder, a config file with weights, or a name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from ..data.reading_options import ReadingOptions
from ..engine.config_checks import load_config
from ..engine.model_info import ModelInfo, is_class_agnostic
from ..errors import InputError
from ..model_zoo.models import PREFIX, get_model_folder


def find_model(
    config_or_run_folder: str | Path, weights: str | None = None, opts: Sequence[str] = ()
) -> tuple[CfgNode, ModelInfo]:
    """Return the config of a trained model, with ``MODEL.WEIGHTS`` set, and what is known of its training.

    Args:
        config_or_run_folder: the ``OUTPUT_DIR`` of a training; a config file, or its name in the model zoo, with
            weights; or the name of a trained model, see :func:`get_model_folder`.
        weights: file of the weights. Default: those of the run folder (the best ones on the validation set, else
            "model_final.pth", else the last checkpoint), or
            ``MODEL.WEIGHTS`` of the config.
        opts: config options, [key, value, ...].

    Raises:
        InputError: there is no such model, it has no weights, or its config is invalid.
    """
    text = str(config_or_run_folder)
    is_config = text.endswith((".yaml", ".yml"))
    folder = Path(text)
    if not is_config and not folder.is_dir():
        if (os.sep in text and not text.startswith(PREFIX)) or folder.exists():
            raise InputError(f"model {text} is not a folder: expected a run folder, which has config.yaml and weights")
        folder = get_model_folder(text)
    info = None
    if is_config:
        cfg = load_config(text, list(opts))
        path = local_weights(weights or cfg.MODEL.WEIGHTS)
        info = ModelInfo.read(Path(path).parent) if path and "://" not in path else None
    else:
        config_file = folder / "config.yaml"
        if not config_file.is_file():
            raise InputError(f"model {text} has no config.yaml: expected the OUTPUT_DIR of a training")
        cfg = load_config(str(config_file), list(opts))
        info = ModelInfo.read(folder)
        named = "MODEL.WEIGHTS" in opts
        path = local_weights(weights or (cfg.MODEL.WEIGHTS if named else _weights_in(folder, info)))
    if not path:
        raise InputError(f"model {text} has no weights: name a file, such as output/model_final.pth")
    cfg.MODEL.WEIGHTS = path
    ReadingOptions.from_cfg(cfg)
    if cfg.MODEL.META_ARCHITECTURE == "SemiConvColoring" and cfg.MODEL.COLORING.CLUSTERING == "kmeans":
        raise InputError(
            "MODEL.COLORING.CLUSTERING is kmeans, which needs the number of instances of each image: set it to seeds "
            "or mean_shift"
        )
    if info is None or not info.classes:
        classes = _class_names(cfg)
        info = ModelInfo(classes) if info is None else ModelInfo(**{**vars(info), "classes": classes})
    return cfg, info


def local_weights(path: str) -> str:
    """Return the file of weights ``tellapart://NAME``, and any other path or address as it is.

    Raises:
        InputError: there is no such model, or its weights are damaged.
    """
    if not path.startswith(PREFIX):
        return path
    folder = get_model_folder(path)
    return _weights_in(folder, ModelInfo.read(folder))


class _ModelZooHandler(PathHandler):
    """Lets Detectron2's checkpointer read ``tellapart://NAME``."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return local_weights(path)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO:
        return open(local_weights(path), mode)


PathManager.register_handler(_ModelZooHandler(), allow_override=True)


def _weights_in(folder: Path, info: ModelInfo | None) -> str:
    """Return the best weights of a run folder, else the newest complete ones, or ""."""
    for name in (info.weights if info is not None else "", "model_final.pth"):
        if name and (folder / name).is_file():
            return str(folder / name)
    last = folder / "last_checkpoint"
    name = last.read_text().strip() if last.is_file() else ""
    return str(folder / name) if name and (folder / name).is_file() else ""


def _class_names(cfg: CfgNode) -> list[str]:
    """Return the category names of the config's data sets, as far as they are registered, or numbers."""
    if is_class_agnostic(cfg):
        return ["object"]
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name in MetadataCatalog.list():
            classes = MetadataCatalog.get(name).get("thing_classes")
            if classes and len(classes) >= cfg.MODEL.ROI_HEADS.NUM_CLASSES:
                return list(classes)
    return [f"class {i + 1}" for i in range(cfg.MODEL.ROI_HEADS.NUM_CLASSES)]
