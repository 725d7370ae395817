"""Predict the instances of images with a trained model, and write masks, tables and pictures.

examples:
  tellapart predict images/ --model output/quick/fcis_R_18_nuclei --output results
  tellapart predict "plate1/*.tif" scan.tif --model RUN --output results --save labels,csv,rois,geojson
  tellapart predict images/ --model RUN --output results --resume          # go on after a stop

--model is the output folder of a training, or the name of a trained model. The results are in the output folder:
labels/, overlays/, rois/, geojson/, instances.csv, images.csv, coco_results.json and coco_images.json.

Exit codes: 0; 1 if an image could not be read (the others are predicted); 2 for invalid input; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``tellapart predict``."""
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="image files, patterns, or folders of images")
    add_model_arguments(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--save",
        default="labels,overlay,csv",
        metavar="KINDS",
        help="comma-separated: coco,labels,overlay,csv,rois,geojson (default: %(default)s)",
    )
    parser.add_argument("--resume", action="store_true", help="skip images that an earlier call has finished")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name a trained model and how it predicts."""
    parser.add_argument("--model", required=True, metavar="RUN", help="output folder of a training, or a model's name")
    parser.add_argument("--weights", metavar="FILE", help="other weights than the final ones of the run")
    parser.add_argument("--device", help="such as cuda or cpu (default: MODEL.DEVICE of the run)")
    parser.add_argument(
        "--threshold", type=float, help="least score (default: the best one on the validation images of the training)"
    )
    parser.add_argument(
        "--tile",
        default="auto",
        metavar="auto|off|PIXELS",
        help="overlapping tiles: where the image would be shrunk against training, never, or of this side",
    )
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config options")


def run(args: argparse.Namespace) -> None:
    """Predict, and exit with 1 if an image could not be read."""
    from tellapart.inference.folder import parse_kinds, predict_folder
    from tellapart.inference.image_files import find_images
    from tellapart.inference.predictor import Predictor

    from tqdm.contrib.logging import logging_redirect_tqdm

    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("tellapart").setLevel(logging.INFO)
    kinds, files = parse_kinds(args.save), find_images(args.images)  # before the model is built
    predictor = Predictor(
        args.model, args.weights, args.device, threshold=args.threshold, tile=args.tile, opts=args.opts
    )
    print(predictor.summary())
    num_instances = num_done = num_before = 0
    errors = []
    try:
        with logging_redirect_tqdm([logging.getLogger()]):
            for result in predict_folder(predictor, files, args.output, save=kinds, resume=args.resume):
                if result.error:
                    errors.append(f"{result.path} cannot be predicted: {result.error}")
                elif result.num_instances is None:
                    num_before += 1
                else:
                    num_done += 1
                    num_instances += result.num_instances
    except KeyboardInterrupt:
        print(
            f"interrupted after {num_done + num_before} of {len(files)} images; their files are complete, the tables "
            "are not written: the same command with --resume goes on",
            file=sys.stderr,
        )
        raise
    for line in predictor.limits.notes():
        print(line)
    for line in predictor.limits.warnings():
        print(f"warning: {line}", file=sys.stderr)
    before = f", {num_before} done before" if num_before else ""
    print(f"{num_instances} instances in {num_done} images{before}: {args.output}")
    for line in errors:
        print(f"error: {line}", file=sys.stderr)
    if errors:
        print(f"error: {len(errors)} of {len(files)} images could not be predicted", file=sys.stderr)
        sys.exit(1)
