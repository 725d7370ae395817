"""The trainer: Detectron2's trainer with exact resuming, atomic checkpoints and contact sheets after evaluation."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm

from ..data.image_reading import ImageReader
from ..data.loader import build_guarded_test_loader, build_resumable_train_loader, read_datasets
from ..data.reader import evaluation_metadata
from ..errors import InputError
from ..evaluation import ColoringEvaluator, CropCOCOEvaluator, InstanceEvaluator, MaskProposalEvaluator
from ..inference.test_augmentation import augmented
from ..inference.tiled_evaluation import TiledModel, opening_mapper, uses_tiles
from ..visualization.contact_sheet import contact_sheet_from_results
from .checkpoint import Checkpointer
from .hooks import KeepLossHistory, SeedEveryStep
from .model_info import ModelInfo, is_class_agnostic
from .preemption import PreemptionHook
from .run_files import contact_sheet_path, inference_folder
from .validation_hook import ValidationHook
from .value_checks import with_tuples_of_names
from .weight_averaging import AverageWeights, TrainOn

logger = logging.getLogger(__name__)
EVALUATORS = {
    "coco": CropCOCOEvaluator, "coloring": ColoringEvaluator, "instances": InstanceEvaluator,
    "mask_proposals": MaskProposalEvaluator,
}  # fmt: skip
_COCO_MAX_DETECTIONS = 100
# In tiles there is no limit per image.
_MAX_DETECTIONS_IN_TILES = 100_000


class Trainer(DefaultTrainer):
    """Detectron2's trainer with a loader that resumes exactly, preemption, atomic checkpoints and contact sheets."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(with_tuples_of_names(cfg))

    @property
    def checkpointer(self) -> Checkpointer:
        """The checkpointer of the trainer and of its hooks.

        ``DefaultTrainer.__init__`` assigns a ``DetectionCheckpointer`` before it builds the hooks that save with it.
        The setter converts it, so that the hooks save atomically too.
        """
        return self._checkpointer

    @checkpointer.setter
    def checkpointer(self, checkpointer: DetectionCheckpointer) -> None:
        if not isinstance(checkpointer, Checkpointer):
            checkpointer = Checkpointer.from_checkpointer(checkpointer)
        self._checkpointer = checkpointer

    def build_hooks(self) -> list:
        """Return Detectron2's hooks and ours; the preemption hook is last, so that it saves a finished iteration."""
        hooks = [*super().build_hooks(), KeepLossHistory(), ValidationHook()]
        if self.cfg.SOLVER.EMA_DECAY > 0:
            averaging = AverageWeights(self.cfg.SOLVER.EMA_DECAY)
            hooks = [averaging, *hooks, TrainOn(averaging)]
        hooks.append(PreemptionHook())
        if self.cfg.SEED >= 0:
            hooks.insert(0, SeedEveryStep(self.cfg.SEED))
        return hooks

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the initial weights, or continue the last checkpoint: weights, optimizer, iteration and data order."""
        self.checkpointer.cfg = self.cfg
        super().resume_or_load(resume=resume)
        self.data_loader.batch_sampler.start_batch = self.start_iter
        if self.start_iter >= self.max_iter:
            logger.info("%s is trained to its end (%d iterations): evaluating", self.cfg.OUTPUT_DIR, self.max_iter)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Build SGD or AdamW (``SOLVER.OPTIMIZER``) with Detectron2's parameter groups and gradient clipping.

        Raises:
            InputError: ``SOLVER.OPTIMIZER`` or ``SOLVER.LR_FACTORS`` is invalid.
        """
        options = cfg.SOLVER
        groups = get_default_optimizer_params(
            model,
            base_lr=options.BASE_LR,
            weight_decay_norm=options.WEIGHT_DECAY_NORM,
            bias_lr_factor=options.BIAS_LR_FACTOR,
            weight_decay_bias=options.WEIGHT_DECAY_BIAS,
            lr_factor_func=lr_factor_function(options.LR_FACTORS, [name for name, _ in model.named_parameters()]),
        )
        arguments = {"lr": options.BASE_LR, "weight_decay": options.WEIGHT_DECAY}
        if options.OPTIMIZER == "SGD":
            arguments.update(momentum=options.MOMENTUM, nesterov=options.NESTEROV)
            return maybe_add_gradient_clipping(cfg, torch.optim.SGD)(groups, **arguments)
        if options.OPTIMIZER == "ADAMW":
            return maybe_add_gradient_clipping(cfg, torch.optim.AdamW)(groups, **arguments)
        raise InputError(f"SOLVER.OPTIMIZER is {options.OPTIMIZER}, expected SGD or ADAMW")

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        """Build the resumable loader over ``cfg.DATASETS.TRAIN``."""
        return build_resumable_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Build Detectron2's test loader with error messages that name an unreadable image."""
        return build_guarded_test_loader(cfg, dataset_name, opening_mapper(cfg) if uses_tiles(cfg) else None)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        """Build the evaluators that ``TEST.EVALUATORS`` names.

        Args:
            cfg: the config.
            dataset_name: the data set to evaluate on.
            output_folder: the folder for the results; by default that of :func:`inference_folder`.

        Raises:
            InputError: ``TEST.EVALUATORS`` is empty or has an unknown name.
        """
        unknown = [name for name in cfg.TEST.EVALUATORS if name not in EVALUATORS]
        if unknown or not cfg.TEST.EVALUATORS:
            raise InputError(f"TEST.EVALUATORS is {cfg.TEST.EVALUATORS}, expected one or more of {list(EVALUATORS)}")
        folder = output_folder or inference_folder(cfg, dataset_name)
        content = read_datasets(cfg, [dataset_name])[dataset_name]
        metadata_name = evaluation_metadata(content, folder)
        evaluators: list[DatasetEvaluator] = []
        for name in cfg.TEST.EVALUATORS:
            if name == "instances" and not cfg.MODEL.MASK_ON:
                continue
            # Some evaluators compare with the records, the others with the file that the metadata names.
            data = dataset_name if name in ("coloring", "instances") else metadata_name
            evaluators.append(EVALUATORS[name](data, output_dir=folder, **_evaluator_options(cfg, name)))
        return DatasetEvaluators(evaluators)

    @classmethod
    def test(cls, cfg: CfgNode, model, evaluators=None) -> dict:
        """Evaluate on every test set, then draw a contact sheet for each test set with COCO results."""
        cfg = with_tuples_of_names(cfg)
        dense = not {"coco", "instances"} >= set(cfg.TEST.EVALUATORS)
        model = augmented(model, cfg, dense)
        if uses_tiles(cfg):
            model = TiledModel(model, cfg, ModelInfo.of_run(cfg), dense)
        results = super().test(cfg, model, evaluators)
        if isinstance(model, TiledModel):
            model.log_limits()
        sheet, reader = cfg.TEST.CONTACT_SHEET, ImageReader.from_cfg(cfg)
        if comm.is_main_process() and sheet.NUM_IMAGES > 0:
            for name in cfg.DATASETS.TEST:
                folder = inference_folder(cfg, name)
                detections_file = os.path.join(folder, "coco_instances_results.json")
                if not os.path.isfile(detections_file):
                    continue
                path = contact_sheet_path(cfg, name)
                content = read_datasets(cfg, [name])[name]
                contact_sheet_from_results(path, content, detections_file, sheet.NUM_IMAGES, sheet.SCORE_THRESH, reader)
                logger.info("Images with true and predicted masks: %s", path)
        return results


def _evaluator_options(cfg: CfgNode, name: str) -> dict:
    """Return the options of an evaluator by its name in ``TEST.EVALUATORS``."""
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    if uses_tiles(cfg) or limit < 0:
        limit = _MAX_DETECTIONS_IN_TILES
    if name == "coco" and limit > _COCO_MAX_DETECTIONS:
        return {"max_dets_per_image": limit}
    if name == "instances":
        return {"class_agnostic": is_class_agnostic(cfg), "max_detections": limit}
    return {}


def lr_factor_function(lr_factors: list[list], parameter_names: list[str]) -> Callable[[str], float]:
    """Return the function from a parameter's name to its learning rate factor.

    Args:
        lr_factors: ``SOLVER.LR_FACTORS``, [prefix, factor] pairs. The factors of all matching prefixes are multiplied.
        parameter_names: the names of all parameters of the model.

    Raises:
        InputError: an entry is not a [prefix, factor] pair, or no parameter's name starts with its prefix.
    """
    for pair in lr_factors:
        if len(pair) != 2 or not isinstance(pair[0], str) or not isinstance(pair[1], (int, float)):
            raise InputError(f"SOLVER.LR_FACTORS has {pair}, expected [prefix of parameter names, factor]")
        if not any(name.startswith(pair[0]) for name in parameter_names):
            raise InputError(f"SOLVER.LR_FACTORS has {pair}, but no parameter's name starts with {pair[0]}")
    return lambda name: math.prod(factor for prefix, factor in lr_factors if name.startswith(prefix))
