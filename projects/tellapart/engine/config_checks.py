"""Load a config, and check it, its data sets and its numbers of classes before a model or a loader is built."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import re
from collections.abc import Callable, Sequence

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY, ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY

from .. import model_zoo
from ..config import RENAMED_KEYS, RENAMED_VALUES, add_config
from ..data.coco_folder import parse_register_flag, register_coco_folder, registered_files
from ..data.data_argument import register_argument
from ..data.loader import follow_bit_depth, follow_mask_format, read_datasets
from ..errors import InputError, did_you_mean
from .dataset_checks import check_contents
from .model_info import is_class_agnostic
from .value_checks import is_device

logger = logging.getLogger(__name__)

# Key below MODEL -> the registry that contains its valid values.
_REGISTRIES = {
    "META_ARCHITECTURE": META_ARCH_REGISTRY, "BACKBONE.NAME": BACKBONE_REGISTRY,
    "PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY, "ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY, "ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
}  # fmt: skip


def add_register_argument(parser: argparse.ArgumentParser) -> None:
    """Add the flag ``--register`` to a tool's parser; :func:`register_from_flags` reads it."""
    parser.add_argument(
        "--register",
        action="append",
        default=[],
        metavar="NAME=JSON:IMAGES",
        help="register a data set under NAME (repeatable)",
    )


def register_from_flags(flags: list[str]) -> None:
    """Register the data sets of the flags ``--register NAME=JSON:IMAGES`` or ``NAME=LABELS:IMAGES``.

    Args:
        flags: the flags' values.

    Raises:
        InputError: a value has another form, or its name is registered already.
    """
    for flag in flags:
        name, annotations, images = parse_register_flag(flag)
        if _is_registered(name, annotations, images):
            continue  # by the command that started this process
        if os.path.isdir(annotations):
            register_argument(f"{name}={annotations}:{images}")
        else:  # a missing file is reported when the data set is read
            register_coco_folder(name, annotations, images)


def _is_registered(name: str, json_file: str, image_root: str) -> bool:
    """Return whether a data set of this name and these files is registered."""
    if name not in DatasetCatalog.list():
        return False
    return registered_files(name) == (os.path.abspath(json_file), os.path.abspath(image_root))


def find_config_file(path_or_name: str) -> str:
    """Return the path of a config file.

    Args:
        path_or_name: an existing file, a URL, or a name in the model zoo ("FCIS/fcis_R_50_FPN.yaml"). A file takes
            precedence over a name.

    Raises:
        InputError: there is no such file and no such name.
    """
    if "://" in path_or_name or os.path.isfile(path_or_name):
        return path_or_name
    try:
        return model_zoo.get_config_file(path_or_name)
    except InputError:
        hint = _similar_file(path_or_name)
        raise InputError(
            f"config file {path_or_name} does not exist, and the model zoo has no config of this name{hint}"
        ) from None


def load_config(config_file: str, opts: list[str]) -> CfgNode:
    """Build a config from Detectron2's defaults, Tellapart's keys, a file with its bases, and KEY VALUE pairs.

    Without a GPU, ``MODEL.DEVICE cuda`` becomes ``cpu``, with a warning.

    Args:
        config_file: a path or a name in the model zoo, see :func:`find_config_file`; "" for defaults only.
        opts: [key, value, key, value, ...], which override the file.

    Raises:
        InputError: the file is missing or is not valid YAML, a key is unknown or renamed, a value has another type, or
            a part of the model is not registered.
    """
    cfg = get_cfg()
    add_config(cfg)
    if config_file:
        path = find_config_file(config_file)
        _merge(lambda: cfg.merge_from_file(path, allow_unsafe=False), cfg, path)
    if opts:
        if len(opts) % 2:
            raise InputError(f"options are {' '.join(opts)} ({len(opts)} words), expected pairs KEY VALUE")
        _merge(lambda: cfg.merge_from_list(opts), cfg, "the command line")
    if is_device(cfg.MODEL.DEVICE) and cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("no CUDA device: MODEL.DEVICE %s -> cpu", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    _check_registered(cfg)
    return cfg


def base_of(config_file: str) -> str:
    """Return the absolute path or the address of the ``_BASE_`` of a config file, or "" if it has none."""
    if not config_file or "://" in config_file:
        return ""
    with open(config_file, encoding="utf-8") as file:
        content = yaml.safe_load(file)
    base = content.get("_BASE_", "") if isinstance(content, dict) else ""
    if not isinstance(base, str) or not base or "://" in base:
        return base if isinstance(base, str) else ""
    return os.path.abspath(os.path.join(os.path.dirname(config_file), os.path.expanduser(base)))


def _check_registered(cfg: CfgNode) -> None:
    for key, registry in _REGISTRIES.items():
        name = functools.reduce(getattr, key.split("."), cfg.MODEL)
        # No registry has these two: no part at all, and proposals that come with the data.
        if name in registry or name in ("", "PrecomputedProposals"):
            continue
        if name in RENAMED_VALUES:
            raise InputError(f"MODEL.{key} is {name}, which has been renamed: set it to {RENAMED_VALUES[name]}")
        known = [known for known, _ in registry]
        hint = did_you_mean(name, known) or f"; known are {', '.join(known)}"
        raise InputError(f"MODEL.{key} is {name}, which is not registered{hint}")


def _merge(merge: Callable[[], None], cfg: CfgNode, source: str) -> None:
    try:
        merge()
    except yaml.YAMLError as error:
        raise InputError(f"{source} is not valid YAML: {error}") from error
    except FileNotFoundError as error:
        raise InputError(f"{source}: its _BASE_ {error.filename} does not exist") from error
    except (TypeError, AttributeError) as error:
        raise InputError(f"{source} has no keys: it or its _BASE_ is empty or a plain value ({error})") from error
    except (KeyError, AssertionError, ValueError) as error:
        text = str(error.args[0] if error.args else error)
        unknown = re.search(r"Non-existent (?:config )?key: ([\w.]+)", text)
        if unknown is None:
            hint = "; write a tuple of names, such as ('mine',)" if "config key: DATASETS." in text else ""
            raise InputError(f"{source}: {text}{hint}") from error
        key = unknown[1]
        if key in RENAMED_KEYS:
            raise InputError(f"{source}: key {key} has been renamed: write {RENAMED_KEYS[key]}") from error
        raise InputError(f"{source}: unknown key {key}{_similar_key(key, cfg)}") from error


def _keys(node: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in node.items():
        keys.append(prefix + name)
        if isinstance(value, CfgNode):
            keys += _keys(value, f"{prefix}{name}.")
    return keys


def _similar_key(key: str, cfg: CfgNode) -> str:
    keys = _keys(cfg)
    # If no full key is similar: the last part may be right, but in the wrong section.
    by_last_part = {known.rsplit(".", 1)[-1]: known for known in keys}
    return did_you_mean(key, keys, cutoff=0.5) or did_you_mean(key.rsplit(".", 1)[-1], by_last_part)


def _similar_file(path: str) -> str:
    folder, name = os.path.split(path)
    files = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    similar = did_you_mean(name, {file: os.path.join(folder, file) for file in files})
    return similar or did_you_mean(path, model_zoo.list_configs())


# Meta-architecture -> the section of the config whose NUM_CLASSES it uses.
_CLASSES_SECTIONS = {
    "GeneralizedRCNN": "ROI_HEADS", "PanopticFPN": "ROI_HEADS", "FCIS": "ROI_HEADS", "SemiConvColoring": "ROI_HEADS",
    "InstanceFCN": "ROI_HEADS", "RetinaNet": "RETINANET",
}  # fmt: skip


def check_datasets(cfg: CfgNode, train: Sequence[str], test: Sequence[str]) -> CfgNode:
    """Read data sets and check them: valid files, as many categories as the model, something to learn from.

    Args:
        cfg: the config of the model.
        train: the names of the data sets to train on.
        test: the names of the data sets to evaluate on.

    Returns:
        ``cfg`` or, if the data need another ``INPUT.MASK_FORMAT`` or ``INPUT.SCALING``, a copy with these.

    Raises:
        InputError: a check fails. The message names the data set, the file, the annotation or the key.
    """
    section = _CLASSES_SECTIONS.get(cfg.MODEL.META_ARCHITECTURE)
    if section == "ROI_HEADS" and is_class_agnostic(cfg):
        section = None  # The results are class-agnostic proposals.
    num_classes = cfg.MODEL[section].NUM_CLASSES if section else None
    contents = read_datasets(cfg, [*train, *test])
    for content in contents.values():
        name, classes = content.name, content.classes
        if section and len(classes) != num_classes:
            raise InputError(
                f"MODEL.{section}.NUM_CLASSES is {num_classes}, but data set {name} has {len(classes)} categories: "
                f"{', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}"
            )
    for name in train:
        contents[name].check_trainable(cfg.MODEL.MASK_ON)
    depths = check_contents(cfg, [contents[name] for name in train], [contents[name] for name in test])
    cfg = follow_bit_depth(cfg, (depth for name in train for depth in depths[name]))
    return follow_mask_format(cfg, any(contents[name].has_rle for name in train))
