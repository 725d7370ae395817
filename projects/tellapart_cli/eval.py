"""Evaluate a trained model.

examples:
  tellapart eval --model output/quick/fcis_R_18_nuclei --data annotations.json:images
  tellapart eval --model RUN --data nuclei_val --against OTHER_RUN        # two models on the same images
  tellapart eval --config-file CONFIG MODEL.WEIGHTS output/model_final.pth    # the flags of `tellapart train`

With --model, AP of masks and measures that count instances are printed, each with a 95 % interval by bootstrap over the
images. The score threshold is the one that was chosen on the validation images of the training. Without --model, the
evaluators of the config run (TEST.EVALUATORS), in one or several processes.
"""

from __future__ import annotations

import argparse

from . import train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``tellapart train``, with ``--eval-only`` on, and those of a trained model."""
    model = parser.add_argument_group("a trained model on any annotated images")
    model.add_argument("--model", metavar="RUN", help="output folder of a training, or the name of a trained model")
    model.add_argument("--data", metavar="JSON:IMAGES", help="annotated images: a COCO file and a folder, or a name")
    model.add_argument("--against", metavar="RUN", help="another model, compared on the same images (paired)")
    model.add_argument("--threshold", type=float, help="score threshold (default: that of the training)")
    model.add_argument("--tile", metavar="auto|off|PIXELS", help="as in `tellapart predict` (default: auto)")
    train.add_config_arguments(parser)
    parser.set_defaults(eval_only=True)


def run(args: argparse.Namespace) -> None:
    """Evaluate."""
    if args.model is None:
        _refuse_unused(args)
        from tellapart.engine import train

        train.run(args)
        return
    from tellapart.data.data_argument import register_argument
    from tellapart.errors import InputError
    from tellapart.inference.evaluate import evaluate_and_print
    from tellapart.inference.predictor import Predictor

    if not args.data:
        raise InputError("--model needs --data: annotated images, JSON:IMAGES or a registered name")
    if args.config_file:
        raise InputError("--model has its own config: leave out --config-file, or use MODEL.WEIGHTS instead of --model")
    name = register_argument(args.data)
    options = {"threshold": args.threshold, "tile": args.tile or "auto", "opts": args.opts}
    runs = [args.model, args.against] if args.against else [args.model]
    evaluate_and_print([Predictor(run, **options) for run in runs], name)


def _refuse_unused(args: argparse.Namespace) -> None:
    for flag in ("data", "against", "threshold", "tile"):
        if getattr(args, flag) is not None:
            from tellapart.errors import InputError

            raise InputError(f"--{flag} needs --model, the output folder of a training")
