"""The trainer: Detectron2's, with a loader that resumes exactly, atomic checkpoints and pictures after evaluation."""

from __future__ import annotations

import logging
import math
import os
import weakref
from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm

from ..data.loader import build_guarded_test_loader, build_resumable_train_loader
from ..errors import InputError
from ..evaluation import ColoringEvaluator, MaskProposalEvaluator
from ..visualization.contact_sheet import contact_sheet_from_results
from .checkpoint import Checkpointer
from .hooks import KeepLossHistory, PreemptionHook, SeedEveryStep

logger = logging.getLogger(__name__)
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
