"""The default training script: command-line arguments, setup, trainer and predictor."""

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


def create_ddp_model(model: torch.nn.Module, *, fp16_compression: bool = False, **kwargs) -> torch.nn.Module:
    """Wrap the model in ``DistributedDataParallel`` if there are several processes.

    Args:
        model: on the GPU of this process, or on the CPU.
        fp16_compression: whether to exchange gradients as float16.
        kwargs: other arguments of ``DistributedDataParallel``. ``device_ids`` is by default the GPU of this process, or
            None for a model on the CPU.
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
    """Return a parser of the arguments of training scripts. ``epilog`` replaces the examples."""
    examples = f"""
Examples:

Train on the 8 GPUs of one machine and change some config options:
    $ {sys.argv[0]} --num-gpus 8 --config-file cfg.yaml MODEL.WEIGHTS /path/to/weight.pth SOLVER.BASE_LR 0.001

Train on two machines:
    (machine0)$ {sys.argv[0]} --machine-rank 0 --num-machines 2 --dist-url <URL> [--other-flags]
    (machine1)$ {sys.argv[0]} --machine-rank 1 --num-machines 2 --dist-url <URL> [--other-flags]
"""
    parser = argparse.ArgumentParser(epilog=epilog or examples, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="", metavar="FILE", help="path of the config file")
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR, if there is one"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate without training")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of GPUs per machine")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="index of this machine, from 0")
    # The default port depends on the user, so that users of the same machine get different ports.
    port = 2**15 + 2**14 + hash(os.getuid() if sys.platform != "win32" else 1) % 2**14
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        help="address where the processes connect; 'auto': a free port of this machine",
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        default=None,
        help="config options to change, as pairs KEY VALUE at the end of the command",
    )
    return parser


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Prepare a training script: output folder, logging, seeds.

    Environment, arguments and config are logged.

    Args:
        cfg: the complete config. It is saved as ``OUTPUT_DIR/config.yaml``. If ``SEED`` is negative, seeds are random,
            otherwise all random generators are seeded with ``SEED`` + rank.
        args: the parsed command-line arguments.
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
    # Evaluation sees many image sizes, and cuDNN's benchmark would run once per size.
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Return writers to the console, and to ``metrics.json`` and TensorBoard files in ``output_dir``."""
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]


class DefaultPredictor:
    """Load the model of a config with the weights ``MODEL.WEIGHTS`` and run it on one image at a time.

    Attributes:
        metadata: the metadata of the first dataset in ``DATASETS.TEST``, if there is one.
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
        """Run the model on one image.

        Args:
            original_image: (H, W, 3) array in BGR order, as ``cv2.imread`` returns it.

        Returns:
            The output of the model for this image, e.g. ``{"instances": Instances}`` in pixels of the original image.

        Raises:
            ValueError: it is None, does not have 3 channels, or its values are not from 0 to 255.
        """
        _check_predictor_image(original_image)
        with torch.no_grad():
            if self.input_format == "RGB":
                original_image = original_image[:, :, ::-1]
            height, width = original_image.shape[:2]
            image = self.aug.get_transform(original_image).apply_image(original_image)
            image = torch.as_tensor(image.astype("float32").transpose(2, 0, 1)).to(self.cfg.MODEL.DEVICE)
            return self.model([{"image": image, "height": height, "width": width}])[0]


def _check_predictor_image(image) -> None:
    dtype, shape = str(getattr(image, "dtype", type(image).__name__)), getattr(image, "shape", ())
    # Floats from 0 to 255 are as good as uint8.
    is_8_bit = dtype == "uint8" or all(shape) and dtype.startswith("float") and 1 < image.max() <= 255
    if len(shape) != 3 or shape[2] != 3 or not all(shape) or not is_8_bit:
        raise ValueError(f"image is {dtype} of shape {shape}, expected uint8 (H, W, 3), BGR (None: no image file)")


def _inner_attribute(name: str) -> property:
    """Return a property that reads and sets an attribute of the inner trainer of `DefaultTrainer`."""
    return property(lambda self: getattr(self._trainer, name), lambda self, value: setattr(self._trainer, name, value))


class DefaultTrainer(TrainerBase):
    """Train the model of a config.

    Model, optimizer, learning-rate scheduler, data loaders, hooks and evaluators are built from the config. To change a
    part, override its ``build_...`` method.

    Attributes:
        cfg: the config.
        scheduler: the learning-rate scheduler.
        checkpointer: the `DetectionCheckpointer`.
        model: the model, in ``DistributedDataParallel`` if there are several processes.
        data_loader: the training data loader.
        optimizer: the optimizer.
    """

    def __init__(self, cfg: CfgNode):
        super().__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):  # logging is not set up yet
            setup_logger()
        if cfg.SOLVER.REFERENCE_WORLD_SIZE not in (0, comm.get_world_size()):
            raise not_included(f"SOLVER.REFERENCE_WORLD_SIZE {cfg.SOLVER.REFERENCE_WORLD_SIZE}")
        # The order determines the random numbers that each part draws.
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = create_ddp_model(model, broadcast_buffers=False)
        self._trainer = (AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer)(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        # A weak reference, because a reference cycle would keep the memory until the garbage collector runs.
        self.checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Load a checkpoint.

        Args:
            resume: whether to continue from the last checkpoint in ``OUTPUT_DIR``, with the states of all parts. If
                False, or if there is no checkpoint, only the weights ``MODEL.WEIGHTS`` are loaded, and training starts
                at iteration 0.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # the checkpoint was saved after its iteration

    def build_hooks(self) -> list:
        """Return the default hooks: timer, learning rate, checkpoints, evaluation, writers.

        Raises:
            NotImplementedError: the config asks for precise batch norm, which is not included.
        """
        cfg = self.cfg
        if cfg.TEST.PRECISE_BN.ENABLED:
            raise not_included("TEST.PRECISE_BN.ENABLED True")
        ret = [hooks.IterationTimer(), hooks.LRScheduler()]
        if comm.is_main_process():
            # Checkpoints are saved before evaluation, which may fail.
            ret.append(hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD))

        def test_and_save_results():
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        ret.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, test_and_save_results))
        if comm.is_main_process():
            # Writers run last, to include the results of the evaluation.
            ret.append(hooks.PeriodicWriter(self.build_writers(), period=20))
        return ret

    def build_writers(self) -> list[EventWriter]:
        """Return `default_writers` for ``OUTPUT_DIR``."""
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self):
        """Train from ``start_iter`` to ``max_iter``.

        Returns:
            The last evaluation results, if the config has ``TEST.EXPECTED_RESULTS`` to compare them with.
        """
        super().train(self.start_iter, self.max_iter)
        if len(self.cfg.TEST.EXPECTED_RESULTS) and comm.is_main_process():
            assert hasattr(self, "_last_eval_results"), "TEST.EXPECTED_RESULTS needs an evaluation in training"
            verify_results(self.cfg, self._last_eval_results)
            return self._last_eval_results
        return None

    def run_step(self) -> None:
        """Run one iteration."""
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict:
        """Return the state of the loop and, under "_trainer", of the inner trainer with the optimizer."""
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore the state of the loop and of the inner trainer."""
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    model = _inner_attribute("model")
    data_loader = _inner_attribute("data_loader")
    optimizer = _inner_attribute("optimizer")

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """Build the model of the config and log it."""
        model = build_model(cfg)
        logging.getLogger(__name__).info(f"Model:\n{model}")
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Call `detectron2.solver.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer):
        """Call `detectron2.solver.build_lr_scheduler`."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        """Call `detectron2.data.build_detection_train_loader`."""
        return build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Call `detectron2.data.build_detection_test_loader`."""
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Return the evaluator of a dataset. Defined by subclasses."""
        raise NotImplementedError(
            f"{cls.__name__} has no evaluator for dataset {dataset_name}: override build_evaluator(), see train_net.py"
        )

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators=None) -> dict:
        """Evaluate the model on every dataset of ``DATASETS.TEST``. All processes must call it.

        Args:
            cfg: the config.
            model: the model to evaluate.
            evaluators: one per dataset, or a single evaluator if there is one dataset. Default: `build_evaluator`.

        Returns:
            The results of the dataset, or a dict of results by dataset name if there are several. Empty in all
            processes but the main one.
        """
        logger = logging.getLogger(__name__)
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        if evaluators is not None:
            assert len(cfg.DATASETS.TEST) == len(evaluators), (
                f"got {len(evaluators)} evaluators for {len(cfg.DATASETS.TEST)} datasets in DATASETS.TEST"
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
