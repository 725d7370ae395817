#!/usr/bin/env python
"""A picture of how FCIS sees one region of an image, or InstanceFCN its best window: score maps, scores, mask.

Example:
    python tools/draw_score_maps.py --config-file configs/quick/fcis_R_18_shapes.yaml --image picture.png \
        --output maps.png MODEL.WEIGHTS output/quick/fcis_R_18_shapes/model_final.pth
"""

from __future__ import annotations

import argparse
import sys

from tellapart import InputError
from tellapart.fcis import FCIS
from tellapart.instance_fcn import InstanceFCN
from tellapart.runtime.checkpoint import Checkpointer
from tellapart.runtime.doors import load_config
from tellapart.visualization.score_maps import draw_fcis_region, draw_instance_fcn

import torch
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model


def main() -> None:
    """Read the flags, build the model, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--image", required=True, help="any picture that Pillow reads")
    parser.add_argument("--output", default="score_maps.png")
    parser.add_argument("--box", type=float, nargs=4, metavar=("X0", "Y0", "X1", "Y1"), help="FCIS; in image pixels")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, MODEL.WEIGHTS at least")
    args = parser.parse_args()
    cfg = load_config(args.config_file, args.opts)
    model = build_model(cfg)
    if not isinstance(model, (FCIS, InstanceFCN)):
        name = cfg.MODEL.META_ARCHITECTURE
        raise InputError(f"{args.config_file}: MODEL.META_ARCHITECTURE is {name}, wanted FCIS or InstanceFCN")
    if isinstance(model, InstanceFCN) and (args.box or cfg.MODEL.INSTANCE_FCN.MASK_HEAD != "InstanceSensitiveHead"):
        raise InputError("of InstanceFCN only the best window can be drawn, and only with an InstanceSensitiveHead")
    Checkpointer(model).resume_or_load(cfg.MODEL.WEIGHTS, resume=False, must_fit=True)
    try:
        image = read_image(args.image, cfg.INPUT.FORMAT)
    except (OSError, SyntaxError) as error:
        raise InputError(f"cannot read image {args.image}: {error}") from error
    resize = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST).get_transform(image)
    resized = resize.apply_image(image)
    inputs = {"image": torch.as_tensor(resized.transpose(2, 0, 1).copy())}
    if isinstance(model, InstanceFCN):
        draw_instance_fcn(args.output, model.eval(), inputs)
    else:
        box = tuple(resize.apply_box([args.box])[0].tolist()) if args.box else None
        names = MetadataCatalog.get(cfg.DATASETS.TEST[0]).get("thing_classes") if cfg.DATASETS.TEST else None
        draw_fcis_region(args.output, model.eval(), inputs, box, names)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"{error}")
