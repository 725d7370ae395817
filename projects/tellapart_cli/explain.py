"""Write one HTML page of pictures that show how a model finds an instance of an image.

examples:
  tellapart explain image.png --model output/cells_fcis                  # the instance with the highest score
  tellapart explain image.png --model RUN --instance 7 --output why.html

FCIS: score maps, assembled sides, voters. InstanceFCN: score maps and window. Semi-convolutional operators: embeddings,
seed, kernel. Instances have the numbers of `tellapart predict`, unless that left out some without a pixel.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``tellapart explain``."""
    parser.add_argument("image", metavar="IMAGE", help="an image file")
    parser.add_argument("--model", required=True, metavar="RUN", help="output folder of a training, or a model's name")
    parser.add_argument("--instance", type=int, metavar="N", help="the instance, by falling score, from 1")
    parser.add_argument("--output", metavar="FILE", help="the page (default: NAME_explained.html)")
    parser.add_argument("--threshold", type=float, help="least score (default: the one of the training)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config options")


def run(args: argparse.Namespace) -> None:
    """Write the page and print where it is."""
    from tellapart.errors import InputError
    from tellapart.inference.predictor import Predictor
    from tellapart.visualization.explain import write_explanation

    predictor = Predictor(args.model, threshold=args.threshold, tile="off", opts=args.opts)
    path = args.output or f"{Path(args.image).stem}_explained.html"
    try:
        number, total = write_explanation(predictor, args.image, path, args.instance)
    except OSError as error:
        raise InputError(str(error)) from error
    if number:
        print(f"wrote {path}: instance {number} of {total}")
    else:
        print(f"wrote {path}: no instance has a score of at least {predictor.threshold:.4g}; --threshold lowers it")
