"""What the tools that draw one image share: flags, the model with its weights, the image as the model takes it."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from fvcore.transforms.transform import Transform
from torch import nn

from ..engine.checkpoint import Checkpointer
from ..engine.config_checks import load_config
from ..errors import InputError


def one_image_parser(description: str, output: str) -> argparse.ArgumentParser:
    """The flags of every such tool: config, image, output (``output`` if not given) and options."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--image", required=True, help="any picture that Pillow reads")
    parser.add_argument("--output", default=output)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, MODEL.WEIGHTS at least")
    return parser


def load_one_image(
    args: argparse.Namespace, check: Callable[[nn.Module, CfgNode], None]
) -> tuple[nn.Module, CfgNode, dict, Transform]:
    """What ``one_image_parser``'s flags name.

    Args:
        args: parsed.
        check: gets the model, before it has its weights, and the config; raises what is wrong with them.

    Returns:
        The model in eval mode; the config; the image at the test size as the model takes it: ``image`` (3, H, W) in
        the model's ``input_format``, ``file_name``; the transform from the file's pixels to those of ``image``.

    Raises:
        InputError: a config, weights or an image that are missing, broken or do not fit.
    """
    cfg = load_config(args.config_file, args.opts)
    model = build_model(cfg)
    check(model, cfg)
    Checkpointer(model).resume_or_load(cfg.MODEL.WEIGHTS, resume=False, must_fit=True)
    try:
        image = read_image(args.image, cfg.INPUT.FORMAT)
    except (OSError, SyntaxError) as error:
        raise InputError(f"cannot read image {args.image}: {error}") from error
    resize = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST).get_transform(image)
    resized = torch.as_tensor(resize.apply_image(image).transpose(2, 0, 1).copy())
    return model.eval(), cfg, {"image": resized, "file_name": args.image}, resize


def class_names(cfg: CfgNode) -> list[str] | None:
    """Of the first test set's categories; None where the config or the set names none."""
    return MetadataCatalog.get(cfg.DATASETS.TEST[0]).get("thing_classes") if cfg.DATASETS.TEST else None
