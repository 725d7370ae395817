#!/usr/bin/env python
"""A picture of how FCIS sees one region of an image, or InstanceFCN its best window: score maps, scores, mask.

Example:
    python tools/draw_score_maps.py --config-file configs/quick/fcis/fcis_R_18_shapes.yaml --image picture.png \
        --output maps.png MODEL.WEIGHTS output/quick/fcis_R_18_shapes/model_final.pth
"""

from __future__ import annotations

from tellapart.errors import InputError, run_command
from tellapart.fcis import FCIS
from tellapart.instance_fcn import InstanceFCN
from tellapart.visualization.model_and_image import class_names, load_one_image, one_image_parser
from tellapart.visualization.score_maps import draw_fcis_region, draw_instance_fcn


def main() -> None:
    """Read the flags, build the model, draw."""
    parser = one_image_parser(__doc__, "score_maps.png")
    parser.add_argument("--box", type=float, nargs=4, metavar=("X0", "Y0", "X1", "Y1"), help="FCIS; in image pixels")
    args = parser.parse_args()

    def check(model, cfg) -> None:
        if not isinstance(model, (FCIS, InstanceFCN)):
            name = cfg.MODEL.META_ARCHITECTURE
            raise InputError(f"{args.config_file}: MODEL.META_ARCHITECTURE is {name}, wanted FCIS or InstanceFCN")
        if isinstance(model, InstanceFCN) and (args.box or cfg.MODEL.INSTANCE_FCN.MASK_HEAD != "InstanceSensitiveHead"):
            raise InputError("of InstanceFCN only the best window can be drawn, and only with an InstanceSensitiveHead")

    model, cfg, inputs, resize = load_one_image(args, check)
    if isinstance(model, InstanceFCN):
        draw_instance_fcn(args.output, model, inputs)
    else:
        box = tuple(resize.apply_box([args.box])[0].tolist()) if args.box else None
        draw_fcis_region(args.output, model, inputs, box, class_names(cfg))
    print(f"wrote {args.output}")


if __name__ == "__main__":
    run_command(main)
