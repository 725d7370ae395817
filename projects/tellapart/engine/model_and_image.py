"""What the tools that draw one image share: their flags, the model with its weights, the image as a model input."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from fvcore.transforms.transform import Transform
from torch import nn

from ..data.image_reading import ImageReader
from ..data.mapper import ResizeAnyImage
from ..errors import InputError
from .checkpoint import Checkpointer
from .config_checks import add_register_argument, load_config, register_from_flags


def model_and_image_parser(description: str, default_output: str) -> argparse.ArgumentParser:
    """Return a parser with the flags of every such tool: config file, image, output file and config options."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--image", required=True, help="image file in a format that Pillow can read")
    parser.add_argument("--output", default=default_output, help="PNG file (default: %(default)s)")
    add_register_argument(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, at least MODEL.WEIGHTS")
    return parser


def load_model_and_image(
    args: argparse.Namespace, check: Callable[[nn.Module, CfgNode], None]
) -> tuple[nn.Module, CfgNode, dict, Transform]:
    """Load what the flags of ``model_and_image_parser`` name.

    Args:
        args: parsed flags.
        check: called with the model, before its weights are loaded, and the config; raises an error if the tool does
            not support them.

    Returns:
        The model in eval mode; the config; the model input: ``image`` (3, H, W) at test size in ``cfg.INPUT.FORMAT``
        and ``file_name``; the transform from pixels of the file to pixels of ``image``.

    Raises:
        InputError: the config, the weights or the image are missing, broken or do not fit.
    """
    register_from_flags(args.register)
    cfg = load_config(args.config_file, args.opts)
    model = build_model(cfg)
    check(model, cfg)
    Checkpointer(model, cfg=cfg).resume_or_load(cfg.MODEL.WEIGHTS, resume=False, must_fit=True)
    try:
        image = ImageReader.from_cfg(cfg)(args.image, cfg.INPUT.FORMAT)
    except (OSError, SyntaxError) as error:
        raise InputError(f"cannot read image {args.image}: {error}") from error
    shortest_edge = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
    resize = ResizeAnyImage(shortest_edge).get_transform(image)
    resized = torch.as_tensor(resize.apply_image(image).transpose(2, 0, 1).copy())
    return model.eval(), cfg, {"image": resized, "file_name": args.image}, resize


def class_names(cfg: CfgNode) -> list[str] | None:
    """Return the category names of the first test set, or None if the config names no test set or it has no names."""
    return MetadataCatalog.get(cfg.DATASETS.TEST[0]).get("thing_classes") if cfg.DATASETS.TEST else None
