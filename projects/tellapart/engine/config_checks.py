"""Checks at the door: config, data sets and class counts are found wrong before anything is built on them."""

from __future__ import annotations

import difflib
import functools
import logging
import os
import re

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY, ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY

from .. import add_config
from ..data.coco_folder import check_dataset, has_masks, parse_register_flag, register_coco_folder
from ..errors import InputError
from ..instance_fcn.classifier import PassThroughROIHeads
from ..validation import registry_name_is_a

logger = logging.getLogger(__name__)

_PARTS = {
    "META_ARCHITECTURE": META_ARCH_REGISTRY, "BACKBONE.NAME": BACKBONE_REGISTRY,
    "PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY, "ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY, "ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
}  # fmt: skip


def register_from_flags(flags: list[str]) -> None:
    """Register what ``--register NAME=JSON:IMAGES`` names.

    Raises:
        InputError: a flag of another form, or a name that is taken.
    """
    for flag in flags:
        register_coco_folder(*parse_register_flag(flag))


def load_config(config_file: str, opts: list[str]) -> CfgNode:
    """Detectron2's defaults, Tellapart's keys, the file with its bases, then ``KEY VALUE`` pairs.

    Without a GPU ``MODEL.DEVICE cuda`` becomes ``cpu``, with a warning.

    Raises:
        InputError: no such file, broken YAML, an unknown key (with the nearest known one), a value of another type, or
            a part of a model that is not registered.
    """
    cfg = get_cfg()
    add_config(cfg)
    if config_file:
        if "://" not in config_file and not os.path.isfile(config_file):
            raise InputError(f"config file {config_file} does not exist{_nearest_file(config_file)}")
        _merge(lambda: cfg.merge_from_file(config_file, allow_unsafe=False), cfg, config_file)
    if opts:
        if len(opts) % 2:
            raise InputError(f"options come in pairs KEY VALUE, got {len(opts)} words: {' '.join(opts)}")
        _merge(lambda: cfg.merge_from_list(opts), cfg, "the command line")
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("no CUDA device: MODEL.DEVICE %s -> cpu", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    _check_parts(cfg)
    return cfg


def _check_parts(cfg: CfgNode) -> None:
    for key, registry in _PARTS.items():
        name = functools.reduce(getattr, key.split("."), cfg.MODEL)
        # the two that no registry has: nothing, and proposals that come with the data
        if name not in registry and name not in ("", "PrecomputedProposals"):
            known = [known for known, _ in registry]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise InputError(f"MODEL.{key} is {name}, which is not registered; {hint}")


def _merge(merge, cfg: CfgNode, source: str) -> None:
    try:
        merge()
    except yaml.YAMLError as error:
        raise InputError(f"{source} is not valid YAML: {error}") from error
    except FileNotFoundError as error:
        raise InputError(f"{source}: its _BASE_ {error.filename} does not exist") from error
    except (TypeError, AttributeError) as error:
        raise InputError(f"{source} has no keys: it, or a _BASE_ of it, is empty or a plain value ({error})") from error
    except (KeyError, AssertionError, ValueError) as error:
        text = str(error.args[0] if error.args else error)
        unknown = re.search(r"Non-existent (?:config )?key: ([\w.]+)", text)
        if unknown is None:
            raise InputError(f"{source}: {text}") from error
        raise InputError(f"{source}: unknown key {unknown[1]}{_nearest_key(unknown[1], cfg)}") from error


def _keys(node: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in node.items():
        keys.append(prefix + name)
        if isinstance(value, CfgNode):
            keys += _keys(value, f"{prefix}{name}.")
    return keys


def _nearest_key(key: str, cfg: CfgNode) -> str:
    keys = _keys(cfg)
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    if not near:
        # the right name under the wrong parent
        last = {k.rsplit(".", 1)[-1]: k for k in keys}
        near = [last[n] for n in difflib.get_close_matches(key.rsplit(".", 1)[-1], last, n=1)]
    return f"; did you mean {near[0]}?" if near else ""


def _nearest_file(path: str) -> str:
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        return f" (nor does the folder {folder})"
    near = difflib.get_close_matches(os.path.basename(path), os.listdir(folder), n=1)
    return f"; did you mean {os.path.join(folder, near[0])}?" if near else ""


# the section whose NUM_CLASSES a meta-architecture goes by
_CLASSES_OF = {
    "GeneralizedRCNN": "ROI_HEADS", "PanopticFPN": "ROI_HEADS", "FCIS": "ROI_HEADS", "SemiConvColoring": "ROI_HEADS",
    "InstanceFCN": "ROI_HEADS", "RetinaNet": "RETINANET",
}  # fmt: skip


def check_datasets(cfg: CfgNode, names: list[str]) -> None:
    """Every data set is registered, its files are there and fit together, it has as many categories as the model, and
    masks if the model has.

    Raises:
        InputError: names the data set, the file, the annotation or the key.
    """
    section = _CLASSES_OF.get(cfg.MODEL.META_ARCHITECTURE)
    if section == "ROI_HEADS" and registry_name_is_a(ROI_HEADS_REGISTRY, cfg.MODEL.ROI_HEADS.NAME, PassThroughROIHeads):
        section = None  # proposals of no category are the result
    num_classes = cfg.MODEL[section].NUM_CLASSES if section else None
    for name in dict.fromkeys(names):
        classes = check_dataset(name)
        if cfg.MODEL.MASK_ON and not has_masks(name):
            raise InputError(f"MODEL.MASK_ON is True, but the annotations of data set {name} have no 'segmentation'")
        if section and classes and len(classes) != num_classes:
            raise InputError(
                f"MODEL.{section}.NUM_CLASSES is {num_classes}, but data set {name} has {len(classes)} categories: "
                f"{', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}"
            )
