"""Train or evaluate any config: Detectron2's own models and Tellapart's, on one process, several, or under torchrun.

Examples:
    python train_net.py --config-file configs/quick/fcis/fcis_R_18_shapes.yaml
    python train_net.py --config-file CONFIG --resume                      # go on where a run stopped
    python train_net.py --config-file CONFIG --eval-only MODEL.WEIGHTS output/model_final.pth
    python train_net.py --config-file CONFIG --num-gpus 8 SOLVER.IMS_PER_BATCH 16
    torchrun --nproc_per_node=2 train_net.py --config-file CONFIG          # gloo on CPUs, NCCL on GPUs
    python train_net.py --config-file CONFIG --register mine=annotations.json:images DATASETS.TEST "('mine',)"
"""

from __future__ import annotations

import argparse
import logging

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..errors import InputError
from .checkpoint import Checkpointer
from .config_checks import check_datasets, load_config, register_from_flags
from .launch import launch
from .trainer import Trainer


def _is_no_input_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], InputError))


def setup(args: argparse.Namespace) -> CfgNode:
    """Config, loggers, seed and output folder."""
    # bad input is one message, printed once by launch(); the training loop would log it with its traceback
    logging.getLogger("detectron2.engine.train_loop").addFilter(_is_no_input_error)
    register_from_flags(args.register)
    cfg = load_config(args.config_file, args.opts)
    check_datasets(cfg, [*([] if args.eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST])
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="tellapart", abbrev_name="tp")
    return cfg


def main(args: argparse.Namespace) -> dict:
    """Train and evaluate, or only evaluate; returns the evaluators' results."""
    cfg = setup(args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        Checkpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume, must_fit=True)
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's flags and ``--register``."""
    parser = default_argument_parser(__doc__.split("Examples:")[1])
    parser.add_argument(
        "--register",
        action="append",
        default=[],
        metavar="NAME=JSON:IMAGES",
        help="register a COCO-format data set under NAME (repeatable)",
    )
    return parser


def run(argv: list[str] | None = None) -> None:
    """Train or evaluate as the command line ``argv`` (default: ``sys.argv``) says."""
    launch(main, argument_parser().parse_args(argv))


if __name__ == "__main__":
    run()
