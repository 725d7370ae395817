#!/usr/bin/env python
"""Draw how FCIS computes the mask of one region, or InstanceFCN that of its best window: score maps, scores, mask.

Example:
    python tools/draw_score_maps.py --config-file configs/quick/fcis/fcis_R_18_shapes.yaml --image picture.png \
        --output maps.png MODEL.WEIGHTS output/quick/fcis_R_18_shapes/model_final.pth
"""

from __future__ import annotations

from tellapart.engine.model_and_image import class_names, load_model_and_image, model_and_image_parser
from tellapart.errors import InputError, run_command
from tellapart.fcis import FCIS
from tellapart.instance_fcn import InstanceFCN
from tellapart.visualization.score_maps import draw_fcis_region, draw_instance_fcn


def main() -> None:
    """Parse the flags, load the model and the image, and draw."""
    parser = model_and_image_parser(__doc__, "score_maps.png")
    parser.add_argument(
        "--box",
        type=float,
        nargs=4,
        metavar=("X0", "Y0", "X1", "Y1"),
        help="FCIS: the region, in pixels of the image file (default: the one with the highest score)",
    )
    args = parser.parse_args()

    def check(model, cfg) -> None:
        if not isinstance(model, (FCIS, InstanceFCN)):
            name = cfg.MODEL.META_ARCHITECTURE
            raise InputError(f"{args.config_file}: MODEL.META_ARCHITECTURE is {name}, expected FCIS or InstanceFCN")
        if isinstance(model, InstanceFCN) and (args.box or cfg.MODEL.INSTANCE_FCN.MASK_HEAD != "InstanceSensitiveHead"):
            raise InputError(
                f"{args.config_file}: MODEL.INSTANCE_FCN.MASK_HEAD is {cfg.MODEL.INSTANCE_FCN.MASK_HEAD}, --box is "
                f"{args.box}; of InstanceFCN only the best window can be drawn, without --box and with "
                "InstanceSensitiveHead"
            )

    model, cfg, inputs, resize = load_model_and_image(args, check)
    if isinstance(model, InstanceFCN):
        draw_instance_fcn(args.output, model, inputs)
    else:
        box = tuple(resize.apply_box([args.box])[0].tolist()) if args.box else None
        draw_fcis_region(args.output, model, inputs, box, class_names(cfg))
    print(f"wrote {args.output}")


if __name__ == "__main__":
    run_command(main)
