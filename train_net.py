#!/usr/bin/env python
"""Train or evaluate any config: Detectron2's own models and Tellapart's, on one process, several, or under torchrun.

Examples:
    python train_net.py --config-file configs/quick/fcis_R_18_shapes.yaml
    python train_net.py --config-file CONFIG --resume                      # go on where a run stopped
    python train_net.py --config-file CONFIG --eval-only MODEL.WEIGHTS output/model_final.pth
    python train_net.py --config-file CONFIG --num-gpus 8 SOLVER.IMS_PER_BATCH 16
    torchrun --nproc_per_node=2 train_net.py --config-file CONFIG          # gloo on CPUs, NCCL on GPUs
    python train_net.py --config-file CONFIG --register mine=annotations.json:images DATASETS.TEST "('mine',)"
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import weakref
from collections.abc import Callable

from tellapart import InputError
from tellapart.data.loader import build_guarded_test_loader, build_resumable_train_loader
from tellapart.evaluation import ColoringEvaluator, MaskProposalEvaluator
from tellapart.runtime.checkpoint import Checkpointer
from tellapart.runtime.doors import check_datasets, load_config, register_from_flags
from tellapart.runtime.hooks import KeepLossHistory, PreemptionHook, SeedEveryStep
from tellapart.runtime.launch import launch
from tellapart.visualization.contact_sheet import contact_sheet_from_results

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators, verify_results
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

logger = logging.getLogger("tellapart.train_net")
EVALUATORS = {"coco": COCOEvaluator, "coloring": ColoringEvaluator, "mask_proposals": MaskProposalEvaluator}


class Trainer(DefaultTrainer):
    """Detectron2's trainer with a loader that resumes exactly, pre-emption, atomic checkpoints and pictures."""

    def build_hooks(self) -> list:
        """Detectron2's hooks, then ours: the pre-emption hook last, so that it saves a finished iteration."""
        self.checkpointer = Checkpointer(self.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        hooks = [*super().build_hooks(), KeepLossHistory(), PreemptionHook()]
        if self.cfg.SEED >= 0:
            hooks.insert(0, SeedEveryStep(self.cfg.SEED))
        return hooks

    def resume_or_load(self, resume: bool = True) -> None:
        """Weights, optimiser and iteration from the newest checkpoint, and the data from where it stopped."""
        super().resume_or_load(resume=resume)
        self.data_loader.batch_sampler.start_batch = self.start_iter
        if self.start_iter >= self.max_iter:
            logger.info("%s is trained to its end (%d iterations): evaluating", self.cfg.OUTPUT_DIR, self.max_iter)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """By ``SOLVER.OPTIMIZER``: SGD or AdamW, with Detectron2's parameter groups and gradient clipping."""
        options = cfg.SOLVER
        groups = get_default_optimizer_params(
            model,
            base_lr=options.BASE_LR,
            weight_decay_norm=options.WEIGHT_DECAY_NORM,
            bias_lr_factor=options.BIAS_LR_FACTOR,
            weight_decay_bias=options.WEIGHT_DECAY_BIAS,
            lr_factor_func=lr_factors(options.LR_FACTORS, [name for name, _ in model.named_parameters()]),
        )
        arguments = {"lr": options.BASE_LR, "weight_decay": options.WEIGHT_DECAY}
        if options.OPTIMIZER == "SGD":
            arguments.update(momentum=options.MOMENTUM, nesterov=options.NESTEROV)
            return maybe_add_gradient_clipping(cfg, torch.optim.SGD)(groups, **arguments)
        if options.OPTIMIZER == "ADAMW":
            return maybe_add_gradient_clipping(cfg, torch.optim.AdamW)(groups, **arguments)
        raise InputError(f"SOLVER.OPTIMIZER is {options.OPTIMIZER}, wanted SGD or ADAMW")

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        """The resumable loader over ``cfg.DATASETS.TRAIN``."""
        return build_resumable_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Detectron2's loader over ``dataset_name``; a broken image is named."""
        return build_guarded_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        """Those of ``TEST.EVALUATORS``; files go to ``OUTPUT_DIR/inference`` (a folder a set if there are several)."""
        unknown = [name for name in cfg.TEST.EVALUATORS if name not in EVALUATORS]
        if unknown or not cfg.TEST.EVALUATORS:
            raise InputError(f"TEST.EVALUATORS is {cfg.TEST.EVALUATORS}, wanted some of {list(EVALUATORS)}")
        folder = output_folder or inference_folder(cfg, dataset_name)
        return DatasetEvaluators([EVALUATORS[name](dataset_name, output_dir=folder) for name in cfg.TEST.EVALUATORS])

    @classmethod
    def test(cls, cfg: CfgNode, model, evaluators=None) -> dict:
        """Evaluate on every test set, then draw a contact sheet of each that COCO's evaluator was on."""
        results = super().test(cfg, model, evaluators)
        sheet = cfg.TEST.CONTACT_SHEET
        if comm.is_main_process() and sheet.NUM_IMAGES > 0:
            for name in cfg.DATASETS.TEST:
                folder = inference_folder(cfg, name)
                found = os.path.join(folder, "coco_instances_results.json")
                if not os.path.isfile(found):
                    continue
                path = os.path.join(folder, f"contact_sheet_{name}.png")
                contact_sheet_from_results(path, name, found, sheet.NUM_IMAGES, sheet.SCORE_THRESH)
                logger.info("Images with true and predicted masks: %s", path)
        return results


def lr_factors(pairs: list[list], names: list[str]) -> Callable[[str], float]:
    """``SOLVER.LR_FACTORS`` as a function of a parameter's name.

    Raises:
        InputError: an entry that is no [prefix, factor], or whose prefix no parameter has.
    """
    for pair in pairs:
        if len(pair) != 2 or not isinstance(pair[0], str) or not isinstance(pair[1], (int, float)):
            raise InputError(f"SOLVER.LR_FACTORS has {pair}, wanted [prefix of parameters' names, factor]")
        if not any(name.startswith(pair[0]) for name in names):
            raise InputError(f"SOLVER.LR_FACTORS has {pair}, but no parameter's name starts with {pair[0]}")
    return lambda name: math.prod(factor for prefix, factor in pairs if name.startswith(prefix))


def inference_folder(cfg: CfgNode, dataset_name: str) -> str:
    """Where the results on ``dataset_name`` are written."""
    folder = os.path.join(cfg.OUTPUT_DIR, "inference")
    return folder if len(cfg.DATASETS.TEST) == 1 else os.path.join(folder, dataset_name)


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


if __name__ == "__main__":
    arguments = argument_parser().parse_args()
    launch(main, arguments)
