"""Train or evaluate any config: Detectron2's own models and Tellapart's."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import logging.handlers
import os
import sys
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..data.image_reading import log_again
from ..data.loader import read_datasets
from ..errors import InputError
from .checkpoint import Checkpointer, check_weights
from .config_checks import base_of, check_datasets, find_config_file, load_config, register_from_flags
from .launch import launch
from .model_info import ModelInfo
from .output_lock import only_training_in
from .trainer import EVALUATORS, Trainer
from .value_checks import check_values

logger = logging.getLogger(__name__)
# The embedded detectron2 raises this for a setting that needs a part it does not have. The real one has no such error.
_NOT_INCLUDED = getattr(sys.modules.get("detectron2._missing"), "NotIncludedError", ())


def run(args: argparse.Namespace) -> None:
    """Train and evaluate, or only evaluate, in as many processes as ``args`` requests.

    Args:
        args: Detectron2's standard flags and ``register``, a list of NAME=JSON:IMAGES.

    Raises:
        InputError: see :func:`tellapart.engine.launch.launch`.
    """
    launch(main, args)


def main(args: argparse.Namespace) -> dict | None:
    """Train and evaluate, or only evaluate, in this process.

    Returns:
        The evaluators' results, if only evaluating or if the config has expected results.

    Raises:
        InputError: the input is invalid, or the config needs a part that the embedded Detectron2 does not have.
    """
    try:
        return _train_or_evaluate(args)
    except _NOT_INCLUDED as error:
        raise InputError(str(error)) from error


def _train_or_evaluate(args: argparse.Namespace) -> dict | None:
    with contextlib.ExitStack() as until_end:
        return _run(setup(args, until_end), args)


def _run(cfg: CfgNode, args: argparse.Namespace) -> dict | None:
    if args.eval_only:
        model = Trainer.build_model(cfg)
        Checkpointer(model, cfg.OUTPUT_DIR, cfg=cfg).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume, must_fit=True
        )
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    with _without_prints() if _is_quiet(args) else contextlib.nullcontext():
        results = trainer.train()
    if comm.is_main_process():
        _log_next_steps(cfg)
    return results


def setup(args: argparse.Namespace, until_end: contextlib.ExitStack) -> CfgNode:
    """Register data sets, load and check the config, and set up the loggers, the seed and the output folder.

    Args:
        args: the flags of ``tellapart train``.
        until_end: keeps other trainings out of the output folder until it is closed.

    Raises:
        InputError: the config or a data set is invalid, or another training writes to the output folder.
    """
    with _log_after_setup():
        return _setup(args, until_end)


def _setup(args: argparse.Namespace, until_end: contextlib.ExitStack) -> CfgNode:
    # An InputError is reported once, without traceback; the training loop would log it with its traceback as well.
    logging.getLogger("detectron2.engine.train_loop").addFilter(_is_not_input_error)
    log_again()
    register_from_flags(args.register)
    config_file = find_config_file(args.config_file) if args.config_file else ""
    cfg = load_config(config_file, args.opts)
    check_values(cfg, tuple(EVALUATORS), is_training=not args.eval_only)
    check_weights(cfg, resume=args.resume, needed=args.eval_only)
    cfg = check_datasets(cfg, [] if args.eval_only else cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    cfg.freeze()
    if not args.eval_only:
        until_end.enter_context(only_training_in(cfg.OUTPUT_DIR))
    with _quiet_console() if _is_quiet(args) else contextlib.nullcontext():
        default_setup(cfg, argparse.Namespace(**{**vars(args), "config_file": config_file}))
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="tellapart", abbrev_name="tp")
    if comm.is_main_process() and not args.eval_only:
        _write_model_info(cfg, args.resume, config_file)
    if config_file != args.config_file:
        logger.info("config %s of the model zoo: %s", args.config_file, config_file)
    return cfg


def _write_model_info(cfg: CfgNode, resume: bool, config_file: str) -> None:
    """Write what prediction needs to know of the training sets; a resumed run keeps its threshold and weights."""
    info = ModelInfo.of_training(cfg, list(read_datasets(cfg, cfg.DATASETS.TRAIN).values()))
    info = dataclasses.replace(info, base_config=base_of(config_file))
    before = ModelInfo.read(cfg.OUTPUT_DIR) if resume else None
    if before is not None:
        kept = {name: getattr(before, name) for name in ("score_threshold", "threshold_from", "weights")}
        info = dataclasses.replace(info, **kept)
    info.write(cfg.OUTPUT_DIR)


def _log_next_steps(cfg: CfgNode) -> None:
    """Log the commands that come after a training."""
    run_folder = cfg.OUTPUT_DIR
    commands = [
        f"tellapart predict IMAGES --model {run_folder} --output {os.path.join(run_folder, 'results')}",
        f"tellapart report {run_folder}",
        f"tellapart explain IMAGE --model {run_folder}",
    ]
    logger.info("Next, with your own images:\n%s", "\n".join(f"  {command}" for command in commands))


def _is_quiet(args: argparse.Namespace) -> bool:
    """Return whether the console shows only progress and results: training on own data, without a config file."""
    return bool(getattr(args, "train", None))


@contextlib.contextmanager
def _quiet_console() -> Iterator[None]:
    """Filter the console handlers that the block makes; later trainings in this process make their own."""
    logger = logging.getLogger("detectron2")
    logger.addFilter(_show_only_progress)
    try:
        yield
    finally:
        logger.removeFilter(_show_only_progress)


def _show_only_progress(record: logging.LogRecord) -> bool:
    """Leave Detectron2's log, except the progress and warnings, to the file ``log.txt``.

    This is a filter of Detectron2's logger, because its handlers are made and used within ``default_setup``.
    """
    for name in ("detectron2", "fvcore"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                handler.addFilter(_is_progress)
    return True


def _is_progress(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name == "detectron2.utils.events"


@contextlib.contextmanager
def _without_prints() -> Iterator[None]:
    """Drop what pycocotools prints. Handlers of the log have their own stream."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


@contextlib.contextmanager
def _log_after_setup() -> Iterator[None]:
    """Keep what is logged before the loggers are set up, and log it at the end of the block.

    The checks come before the output folder is created, so their messages would miss the log file.
    """
    package_logger = logging.getLogger("tellapart")
    buffer = logging.handlers.MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
    level, propagate = package_logger.level, package_logger.propagate
    package_logger.addHandler(buffer)
    package_logger.setLevel(logging.INFO)
    package_logger.propagate = False
    try:
        yield
    finally:
        package_logger.removeHandler(buffer)
        if package_logger.level == logging.INFO and level != logging.INFO and not package_logger.handlers:
            package_logger.setLevel(level)
        if not package_logger.handlers:
            package_logger.propagate = propagate
        for record in buffer.buffer:
            package_logger.handle(record)


def _is_not_input_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], InputError))
