"""Configs and weights of Detectron2's model zoo: the Mask R-CNN baselines with an FPN backbone."""

from __future__ import annotations

import os

import torch

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.utils.file_io import Detectron2Handler

# Config name without ".yaml" -> the weights' address below the zoo's, as published in Detectron2's MODEL_ZOO.md.
_WEIGHTS = {
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x": "137260431/model_final_a54504.pkl",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x": "137849600/model_final_f10217.pkl",
    "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x": "138205316/model_final_a3ec72.pkl",
}


def get_config_file(config_path: str) -> str:
    """Return the path of a config file of the model zoo.

    Args:
        config_path: name such as "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml".

    Raises:
        RuntimeError: the embedded Detectron2 does not have this config.
    """
    if config_path not in (f"{name}.yaml" for name in _WEIGHTS):
        raise RuntimeError(_not_available(config_path))
    return os.path.join(os.path.dirname(__file__), "configs", config_path)


def get_checkpoint_url(config_path: str) -> str:
    """Return the address of the weights trained with a config of the model zoo.

    The argument and the errors are those of `get_config_file`.
    """
    name = config_path.removesuffix(".yaml")
    if name not in _WEIGHTS:
        raise RuntimeError(_not_available(config_path))
    return f"{Detectron2Handler.S3_DETECTRON2_PREFIX}{name}/{_WEIGHTS[name]}"


def get_config(config_path: str, trained: bool = False) -> CfgNode:
    """Return a config of the model zoo.

    Args:
        config_path: see `get_config_file`.
        trained: set ``MODEL.WEIGHTS`` to the trained weights. Otherwise it names an ImageNet backbone.
    """
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(config_path))
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(config_path)
    return cfg


def get(config_path: str, trained: bool = False, device: str | None = None) -> torch.nn.Module:
    """Build a model of the model zoo, in training mode, and load its weights.

    Args:
        config_path: see `get_config_file`.
        trained: see `get_config`.
        device: by default the config's, or the CPU where there is no GPU.
    """
    cfg = get_config(config_path, trained)
    if device is not None or not torch.cuda.is_available():
        cfg.MODEL.DEVICE = device or "cpu"
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model


def _not_available(name: str) -> str:
    known = ", ".join(f"{n}.yaml" for n in _WEIGHTS)
    return f"{name} not available in Model Zoo! The embedded detectron2 has {known}; the real one has the others."
