"""Draw the annotations of random images of a data set, to look at before training.

examples:
  tellapart show annotations.json:images                     # 12 images, to NAME_labels.png
  tellapart show cells/ --num 24 --seed 1 --output labels.html

Exit codes: 0; 2 for invalid input.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``tellapart show``."""
    parser.add_argument("data", metavar="DATA", help="a COCO file, JSON:IMAGES, a folder, or a registered name")
    parser.add_argument("--num", type=int, default=12, help="number of images (default: 12)")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice (default: 0)")
    parser.add_argument("--output", metavar="FILE", help="a .png or .html file (default: NAME_labels.png)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config options")


def run(args: argparse.Namespace) -> None:
    """Draw, and print the name of the file."""
    from tellapart.data.data_argument import register_argument
    from tellapart.visualization.data_sheet import write_data_sheet

    name = register_argument(args.data)
    output = args.output or f"{name}_labels.png"
    shown, total = write_data_sheet(output, name, args.num, args.seed, args.opts)
    print(f"wrote {output}: {shown} of {total} images")
