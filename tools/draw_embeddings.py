#!/usr/bin/env python
"""Draw how a semi-convolutional model separates the instances of an image: embeddings and the points they refer to.

For Mask R-CNN, the picture also shows the seed, the kernel and the mask of one region.

Example:
    python tools/draw_embeddings.py --config-file configs/quick/semiconv/semiconv_R_18_FPN_bbbc010.yaml \
        --image worms.png --output embeddings.png \
        MODEL.WEIGHTS output/quick/semiconv_R_18_FPN_bbbc010/model_final.pth
"""

from __future__ import annotations

from tellapart.coloring import SemiConvColoring
from tellapart.engine.model_and_image import class_names, load_model_and_image, model_and_image_parser
from tellapart.errors import InputError, run_command
from tellapart.visualization.embedding_pictures import draw_embeddings, has_embeddings


def main() -> None:
    """Parse the flags, load the model and the image, and draw."""
    parser = model_and_image_parser(__doc__, "embeddings.png")
    parser.add_argument("--region", type=int, help="Mask R-CNN: number of the instance in the picture (default: 0)")
    parser.add_argument("--num-instances", type=int, help="SemiConvColoring: number of instances, only for k-means")
    args = parser.parse_args()

    def check(model, cfg) -> None:
        if not has_embeddings(model):
            raise InputError(
                f"{args.config_file}: MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE} with ROI heads "
                f"{cfg.MODEL.ROI_HEADS.NAME}, expected SemiConvColoring or GeneralizedRCNN with SemiConvROIHeads"
            )
        unused = "--region" if isinstance(model, SemiConvColoring) else "--num-instances"
        if getattr(args, unused[2:].replace("-", "_")) is not None:
            raise InputError(f"{unused} has no effect on a {type(model).__name__}: leave it out")

    model, cfg, inputs, _ = load_model_and_image(args, check)
    if args.num_instances is not None:
        inputs["gt_num_instances"] = args.num_instances
    draw_embeddings(
        args.output, model, inputs, cfg.INPUT.FORMAT, args.region, cfg.TEST.CONTACT_SHEET.SCORE_THRESH, class_names(cfg)
    )
    print(f"wrote {args.output}")


if __name__ == "__main__":
    run_command(main)
