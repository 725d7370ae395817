"""The standard training workflow: arguments, set-up, trainer, predictor."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import weakref
from collections import OrderedDict

import torch
from torch.nn.parallel import DistributedDataParallel

from detectron2._missing import not_included
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import (
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data import transforms as T
from detectron2.engine import hooks
from detectron2.engine.train_loop import AMPTrainer, SimpleTrainer, TrainerBase
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format, verify_results
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger

__all__ = [
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "default_writers",
    "DefaultPredictor",
    "DefaultTrainer",
]


def create_ddp_model(model: torch.nn.Module, *, fp16_compression: bool = False, **kwargs) -> torch.nn.Module:
    """The model, wrapped for data-parallel training if there are several processes.

    Args:
        model: on this process's GPU, or on the CPU.
        fp16_compression: send gradients as float16.
        kwargs: for ``DistributedDataParallel``; they win over the ``device_ids`` chosen here.
    """
    if comm.get_world_size() == 1:
        return model
    if "device_ids" not in kwargs and next(model.parameters()).is_cuda:
        kwargs["device_ids"] = [comm.get_local_rank()]
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks import default

        ddp.register_comm_hook(state=None, hook=default.fp16_compress_hook)
    return ddp


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser of the arguments that training scripts share; ``epilog`` replaces its examples."""
    examples = f"""
Examples:

Run on single machine:
    $ {sys.argv[0]} --num-gpus 8 --config-file cfg.yaml

Change some config options:
    $ {sys.argv[0]} --config-file cfg.yaml MODEL.WEIGHTS /path/to/weight.pth SOLVER.BASE_LR 0.001

Run on multiple machines:
    (machine0)$ {sys.argv[0]} --machine-rank 0 --num-machines 2 --dist-url <URL> [--other-flags]
    (machine1)$ {sys.argv[0]} --machine-rank 1 --num-machines 2 --dist-url <URL> [--other-flags]
"""
    parser = argparse.ArgumentParser(
        epilog=epilog or examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to config file")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint of the output folder, if there is one; see DefaultTrainer.resume_or_load",
    )
    parser.add_argument("--eval-only", action="store_true", help="perform evaluation only")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of gpus *per machine*")
    parser.add_argument("--num-machines", type=int, default=1, help="total number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="the rank of this machine (unique per machine)")
    # A port per user, so that users of one machine don't meet.
    port = 2**15 + 2**14 + hash(os.getuid() if sys.platform != "win32" else 1) % 2**14
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        help="initialization URL for pytorch distributed backend; 'auto': a free port of this one machine",
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        default=None,
        help="Modify config options at the end of the command, as space-separated PATH.KEY VALUE pairs",
    )
    return parser


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Make the output folder, set up logs, log environment, arguments and config, save the config, seed.

    Args:
        cfg: the whole config; it is written to ``OUTPUT_DIR/config.yaml``. ``SEED`` >= 0 seeds everything with
            ``SEED`` + rank.
        args: the command line.
    """
    rank = comm.get_rank()
    if comm.is_main_process() and cfg.OUTPUT_DIR:
        PathManager.mkdirs(cfg.OUTPUT_DIR)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore")
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank)
    logger.info(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
    logger.info("Environment info:\n" + collect_env_info())
    logger.info(f"Command line arguments: {args}")
    if getattr(args, "config_file", ""):
        with PathManager.open(args.config_file, "r") as f:
            logger.info(f"Contents of args.config_file={args.config_file}:\n{f.read()}")
    if comm.is_main_process() and cfg.OUTPUT_DIR:
        logger.info(f"Running with full config:\n{cfg.dump()}")
        path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
        with PathManager.open(path, "w") as f:
            f.write(cfg.dump())
        logger.info(f"Full config saved to {path}")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not getattr(args, "eval_only", False):  # images of many sizes: trying kernels for each costs more than it gains
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """A console line, ``metrics.json`` and TensorBoard events, the latter two in ``output_dir``."""
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]


class DefaultPredictor:
    """A model with the weights ``MODEL.WEIGHTS``, for one BGR image at a time.

    Attributes:
        metadata: of the first of ``DATASETS.TEST``, if there is one.
    """

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg)
        self.model.eval()
        if len(cfg.DATASETS.TEST):
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self.aug = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST], cfg.INPUT.MAX_SIZE_TEST)
        self.input_format = cfg.INPUT.FORMAT
        assert self.input_format in ("RGB", "BGR"), f"INPUT.FORMAT must be RGB or BGR, got {self.input_format}"

    def __call__(self, original_image):
        """
        Args:
            original_image: (H, W, 3) array, BGR, as ``cv2.imread`` gives it.

        Returns:
            The model's output for it, e.g. {"instances": Instances} in pixels of the original image.
        """
        with torch.no_grad():
            if self.input_format == "RGB":
                original_image = original_image[:, :, ::-1]
            height, width = original_image.shape[:2]
            image = self.aug.get_transform(original_image).apply_image(original_image)
            image = torch.as_tensor(image.astype("float32").transpose(2, 0, 1)).to(self.cfg.MODEL.DEVICE)
            return self.model([{"image": image, "height": height, "width": width}])[0]


class DefaultTrainer(TrainerBase):
    """The standard trainer: model, optimizer, schedule, loaders, hooks and evaluation from a config.

    Overwrite the ``build_*`` methods for what should be otherwise.

    Attributes:
        cfg: the config. scheduler: the schedule. checkpointer: the `DetectionCheckpointer`.
    """

    def __init__(self, cfg: CfgNode):
        super().__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):  # nobody has set it up
            setup_logger()
        if cfg.SOLVER.REFERENCE_WORLD_SIZE not in (0, comm.get_world_size()):
            raise not_included(f"SOLVER.REFERENCE_WORLD_SIZE {cfg.SOLVER.REFERENCE_WORLD_SIZE} (scaling by workers)")
        # In this order, which is that of the draws of random numbers.
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = create_ddp_model(model, broadcast_buffers=False)
        self._trainer = (AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer)(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        # The trainer owns the checkpointer: a plain reference back would be a cycle.
        self.checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """With ``resume`` and a last checkpoint in ``OUTPUT_DIR`` go on from it, with all states; else load only the
        model's weights, from ``MODEL.WEIGHTS``, and start at iteration 0."""
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # the checkpoint's iteration is done

    def build_hooks(self) -> list:
        """Timing, schedule, checkpoints, evaluation, writing, in this order.

        Raises:
            NotImplementedError: ``TEST.PRECISE_BN.ENABLED``.
        """
        cfg = self.cfg
        if cfg.TEST.PRECISE_BN.ENABLED:
            raise not_included("TEST.PRECISE_BN.ENABLED True")
        ret = [hooks.IterationTimer(), hooks.LRScheduler()]
        if comm.is_main_process():
            # Before evaluation, which may fail.
            ret.append(hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD))

        def test_and_save_results():
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        ret.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, test_and_save_results))
        if comm.is_main_process():
            # After evaluation, so that its results are written.
            ret.append(hooks.PeriodicWriter(self.build_writers(), period=20))
        return ret

    def build_writers(self) -> list[EventWriter]:
        """`default_writers` in ``OUTPUT_DIR``."""
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self):
        """Train from ``start_iter`` to ``max_iter``; returns the last results if the config expects some."""
        super().train(self.start_iter, self.max_iter)
        if len(self.cfg.TEST.EXPECTED_RESULTS) and comm.is_main_process():
            assert hasattr(self, "_last_eval_results"), "No evaluation results obtained during training!"
            verify_results(self.cfg, self._last_eval_results)
            return self._last_eval_results
        return None

    def run_step(self) -> None:
        """One iteration of the inner trainer."""
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict:
        """The loop's state, and the inner trainer's under "_trainer"."""
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Set the loop's state and the inner trainer's."""
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @property
    def model(self):
        """The model, wrapped if there are several processes."""
        return self._trainer.model

    @property
    def data_loader(self):
        """The training loader."""
        return self._trainer.data_loader

    @property
    def optimizer(self):
        """The optimizer."""
        return self._trainer.optimizer

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """The model of the config, logged."""
        model = build_model(cfg)
        logging.getLogger(__name__).info(f"Model:\n{model}")
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """`detectron2.solver.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer):
        """`detectron2.solver.build_lr_scheduler`."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        """`detectron2.data.build_detection_train_loader`."""
        return build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """`detectron2.data.build_detection_test_loader`."""
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """The evaluator of a data set; to be overwritten."""
        raise NotImplementedError(
            "If you want DefaultTrainer to automatically run evaluation, please implement `build_evaluator()` in "
            "subclasses (see train_net.py for example)."
        )

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators=None) -> dict:
        """Evaluate on each of ``DATASETS.TEST``; all processes call it.

        Args:
            evaluators: one per data set, or one for a single; default: `build_evaluator`'s.

        Returns:
            The results, by data set if there are several; of a process other than the main one empty.
        """
        logger = logging.getLogger(__name__)
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        if evaluators is not None:
            assert len(cfg.DATASETS.TEST) == len(evaluators), (
                f"{len(evaluators)} evaluators for {len(cfg.DATASETS.TEST)} test data sets"
            )
        results = OrderedDict()
        for i, name in enumerate(cfg.DATASETS.TEST):
            data_loader = cls.build_test_loader(cfg, name)
            try:
                evaluator = evaluators[i] if evaluators is not None else cls.build_evaluator(cfg, name)
            except NotImplementedError:
                logger.warning(
                    "No evaluator found. Use `DefaultTrainer.test(evaluators=)`, or implement its "
                    "`build_evaluator` method."
                )
                results[name] = {}
                continue
            results[name] = inference_on_dataset(model, data_loader, evaluator)
            if comm.is_main_process():
                assert isinstance(results[name], dict), (
                    f"An evaluator must return a dict on the main process. Got {results[name]} instead."
                )
                logger.info(f"Evaluation results for {name} in csv format:")
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results
