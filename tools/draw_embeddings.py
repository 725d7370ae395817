#!/usr/bin/env python
"""A picture of how a semi-convolutional model tells the instances of an image apart: embeddings, where they point, and
for Mask R-CNN one region's seed, kernel and mask.

Example:
    python tools/draw_embeddings.py --config-file configs/quick/semiconv/semiconv_R_18_FPN_bbbc010.yaml --image worms.png \
        --output embeddings.png MODEL.WEIGHTS output/quick/semiconv_R_18_FPN_bbbc010/model_final.pth
"""

from __future__ import annotations

from tellapart.coloring import SemiConvColoring
from tellapart.errors import InputError, run_command
from tellapart.visualization.embeddings import draw_embeddings, has_embeddings
from tellapart.visualization.model_and_image import class_names, load_one_image, one_image_parser


def main() -> None:
    """Read the flags, build the model, draw."""
    parser = one_image_parser(__doc__, "embeddings.png")
    parser.add_argument("--region", type=int, help="Mask R-CNN: which instance, by its number in the picture; the best")
    parser.add_argument("--num-instances", type=int, help="SemiConvColoring: how many there are; k-means wants to know")
    args = parser.parse_args()

    def check(model, cfg) -> None:
        if not has_embeddings(model):
            raise InputError(
                f"{args.config_file}: MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE} with ROI heads "
                f"{cfg.MODEL.ROI_HEADS.NAME}, wanted SemiConvColoring or GeneralizedRCNN with SemiConvROIHeads"
            )
        unused = "--region" if isinstance(model, SemiConvColoring) else "--num-instances"
        if getattr(args, unused[2:].replace("-", "_")) is not None:
            raise InputError(f"{unused} says nothing to a {type(model).__name__}")

    model, cfg, inputs, _ = load_one_image(args, check)
    if args.num_instances is not None:
        inputs["gt_num_instances"] = args.num_instances
    draw_embeddings(
        args.output, model, inputs, cfg.INPUT.FORMAT, args.region, cfg.TEST.CONTACT_SHEET.SCORE_THRESH, class_names(cfg)
    )
    print(f"wrote {args.output}")


if __name__ == "__main__":
    run_command(main)
