"""Train and evaluate: on your own data without a config file, or any config of Detectron2 or Tellapart.

examples:
  tellapart train --train cells/                                    # images with label images; a part is held out
  tellapart train --train train.json:images --val val.json:images --method fcis
  tellapart train --train cells/ --init output/quick/fcis_R_18_nuclei    # fine-tune a trained model
  tellapart train --config-file quick/fcis/fcis_R_18_shapes.yaml
  tellapart train --config-file CONFIG --resume                    # continue from the last checkpoint
  tellapart train --config-file CONFIG SOLVER.MAX_ITER 900         # change values of the config
  tellapart train --config-file CONFIG --num-gpus 8 SOLVER.IMS_PER_BATCH 16
  torchrun --nproc_per_node=2 -m tellapart train --config-file CONFIG    # gloo on CPUs, NCCL on GPUs
  tellapart train --config-file CONFIG --register mine=annotations.json:images DATASETS.TRAIN "('mine',)"

In a checkout, `python train_net.py` is the same as `tellapart train`.
"""

from __future__ import annotations

import argparse
import os
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of Detectron2's ``default_argument_parser``, ``--register``, and those of your own data."""
    own = parser.add_argument_group("your own data, without a config file")
    own.add_argument("--train", metavar="DATA", help="JSON:IMAGES, a folder of images with label images, or a name")
    own.add_argument("--val", metavar="DATA", help="validation data (default: a fifth of the training images)")
    own.add_argument("--method", choices=("fcis", "semiconv", "maskrcnn"), help="default: by the shapes of the objects")
    own.add_argument("--init", metavar="RUN", help="start from the weights of a trained model: a run folder or a name")
    own.add_argument("--output", metavar="DIR", help="run folder (default: output/NAME_METHOD)")
    add_config_arguments(parser)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of Detectron2's ``default_argument_parser``, and ``--register``.

    The flags are written here again because detectron2 imports torch. A test compares them with Detectron2's.
    """
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="a config file, or a name in tellapart.model_zoo"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR, if there is one"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS without training")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of GPUs per machine")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="index of this machine, from 0")
    # As in Detectron2: a port per user, so that two users of one machine do not use the same.
    port = 2**15 + 2**14 + hash(os.getuid() if sys.platform != "win32" else 1) % 2**14
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", help="address at which several processes meet")
    parser.add_argument(
        "--register",
        action="append",
        default=[],
        metavar="NAME=JSON:IMAGES",
        help="register a COCO-format data set under NAME (repeatable)",
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config options, as pairs KEY VALUE, at the end"
    )


def run(args: argparse.Namespace) -> None:
    """Train and evaluate."""
    if args.train:
        from tellapart.engine import own_data

        own_data.run(args)
        return
    from tellapart.engine import train

    _refuse_unused(args)
    train.run(args)


def _refuse_unused(args: argparse.Namespace) -> None:
    for flag in ("val", "method", "init", "output"):
        if getattr(args, flag) is not None:
            from tellapart.errors import InputError

            raise InputError(f"--{flag} needs --train, the images to train on")
