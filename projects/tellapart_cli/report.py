"""Write one HTML page about a trained model: measures with intervals, curves, errors, best and worst images, config.

examples:
  tellapart report output/cells_fcis                       # on its validation set, to output/cells_fcis/report.html
  tellapart report RUN --data test.json:images --output test.html

The page has everything in it and loads nothing from elsewhere. Errors are sorted into missed, split, merged, wrong
category, duplicate, loose mask and false.
"""

from __future__ import annotations

import argparse
import os


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``tellapart report``."""
    parser.add_argument("model", metavar="RUN", help="output folder of a training, or a model's name")
    parser.add_argument("--data", metavar="DATA", help="annotated images (default: the validation set of the training)")
    parser.add_argument("--output", metavar="FILE", help="the page (default: report.html in the run folder)")
    parser.add_argument("--threshold", type=float, help="least score (default: the one of the training)")
    parser.add_argument("--tile", default="auto", metavar="auto|off|PIXELS", help="as in `tellapart predict`")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config options")


def run(args: argparse.Namespace) -> None:
    """Write the page and print where it is."""
    from tellapart.data.data_argument import register_argument
    from tellapart.inference.evaluate import report
    from tellapart.inference.predictor import Predictor
    from tellapart.visualization.report import write_report

    name = register_argument(args.data) if args.data else None
    predictor = Predictor(args.model, threshold=args.threshold, tile=args.tile, opts=args.opts)
    folder = os.path.dirname(predictor.cfg.MODEL.WEIGHTS) or "."
    path = args.output or os.path.join(folder, "report.html")
    evaluation = write_report(predictor, folder, path, name)
    print(report(evaluation))
    print(f"wrote {path}")
