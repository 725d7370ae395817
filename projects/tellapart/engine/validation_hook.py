"""The hook that follows the validation during a training: log, best checkpoint, score threshold, pictures, time."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import time
from typing import Any

import cv2
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch.utils.tensorboard import SummaryWriter

from ..files import atomic_file
from .model_info import ModelInfo
from .run_files import BEST_FILE, FINAL_FILE, contact_sheet_path

logger = logging.getLogger(__name__)
_TIMED_ITERATIONS = 20  # after which the expected time is logged


class ValidationHook(HookBase):
    """After every evaluation of a training: log AP and F1, keep the best weights, and show overlays in TensorBoard.

    Register it after Detectron2's ``EvalHook``. With ``TEST.BEST_CHECKPOINT``, the weights with the highest value of
    that measure on the first test set are ``model_best.pth``. At the end, the run folder's ``model_info.json`` names
    the better ones of these and the final weights, and their score threshold: prediction uses them.
    """

    def __init__(self) -> None:
        self._seen: Any = None
        self._best: dict[str, Any] = {}  # value, iteration, threshold
        self._start = (0, 0.0)
        self._warned = False

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far, with its iteration and score threshold."""
        return dict(self._best)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the best value of a checkpoint."""
        self._best = dict(state)

    def before_train(self) -> None:
        """Start to measure the time."""
        self._start = (self.trainer.iter, time.perf_counter())

    def after_step(self) -> None:
        """Log the expected time after 20 iterations, and follow an evaluation."""
        first, start = self._start
        done = self.trainer.iter + 1 - first
        left = self.trainer.max_iter - self.trainer.iter - 1
        if done == _TIMED_ITERATIONS and left > 0:
            minutes = (time.perf_counter() - start) / done * left / 60
            logger.info("Expected time: %.1f min for the %d iterations that are left, and evaluation", minutes, left)
        self._follow(self.trainer.iter + 1)

    def after_train(self) -> None:
        """Follow the last evaluation, and choose the weights for prediction."""
        self._follow(self.trainer.iter)
        results = self._results()
        info = ModelInfo.read(self.trainer.cfg.OUTPUT_DIR)
        if not comm.is_main_process() or info is None or not results:
            return
        cfg = self.trainer.cfg
        value, threshold, weights = self._value(results), _threshold(results), FINAL_FILE
        best = os.path.join(cfg.OUTPUT_DIR, BEST_FILE)
        if self._best and value is not None and self._best["value"] > value and os.path.isfile(best):
            weights, threshold = BEST_FILE, self._best["threshold"]
            logger.info(
                "Prediction uses %s, the weights after iteration %d: %s %.2f, and %.2f at the end", BEST_FILE,
                self._best["iteration"], cfg.TEST.BEST_CHECKPOINT, self._best["value"], value,
            )  # fmt: skip
        info = dataclasses.replace(info, weights=weights)
        if threshold is not None:
            name = cfg.DATASETS.TEST[0]
            info = dataclasses.replace(info, score_threshold=threshold, threshold_from=name)
            logger.info("Score threshold for prediction: %.4g, the best F1 at IoU 0.5 on %s", threshold, name)
        info.write(cfg.OUTPUT_DIR)

    def _results(self) -> dict[str, dict[str, float]]:
        """Return the last results of the first test set, by evaluator."""
        results = getattr(self.trainer, "_last_eval_results", None) or {}
        tests = self.trainer.cfg.DATASETS.TEST
        return results.get(tests[0], {}) if len(tests) > 1 else results

    def _value(self, results: dict[str, dict[str, float]]) -> float | None:
        key = self.trainer.cfg.TEST.BEST_CHECKPOINT
        section, _, name = key.partition("/")
        value = results.get(section, {}).get(name)
        if key and value is None and not self._warned:
            self._warned = True
            known = ", ".join(f"{part}/{one}" for part, values in results.items() for one in values)
            logger.warning("TEST.BEST_CHECKPOINT is %s, which no evaluator returns: expected one of %s", key, known)
        return value if value is not None and math.isfinite(value) else None

    def _follow(self, iteration: int) -> None:
        results = self._results()
        if not comm.is_main_process() or not results or getattr(self.trainer, "_last_eval_results", None) is self._seen:
            return
        self._seen = self.trainer._last_eval_results
        cfg = self.trainer.cfg
        value, best = self._value(results), ""
        if value is not None and value > self._best.get("value", -math.inf):
            self._best = {"value": value, "iteration": iteration, "threshold": _threshold(results)}
            self._save()
            best = ", the best so far"
        logger.info("Validation after iteration %d: %s%s", iteration, _shown(results), best)
        _show_sheet(cfg, iteration)

    def _save(self) -> None:
        """Write the weights alone, and not as the last checkpoint, which resuming needs."""
        model = self.trainer.checkpointer.model
        with atomic_file(os.path.join(self.trainer.cfg.OUTPUT_DIR, BEST_FILE), "wb") as file:
            torch.save({"model": model.state_dict()}, file)


def _threshold(results: dict[str, dict[str, float]]) -> float | None:
    threshold = results.get("instances", {}).get("threshold")
    return threshold if threshold is not None and math.isfinite(threshold) else None


def _shown(results: dict[str, dict[str, float]]) -> str:
    """Return AP and F1, or the first measure of other evaluators."""
    measures = (("segm", "AP", "mask AP"), ("bbox", "AP", "box AP"), ("instances", "F1", "F1"))
    known = [(text, results[part][name]) for part, name, text in measures if name in results.get(part, {})]
    if not known:
        known = [(f"{part} {name}", values[name]) for part, values in results.items() for name in list(values)[:1]]
    return ", ".join(f"{text} {value:.1f}" for text, value in known)


def _show_sheet(cfg: Any, iteration: int) -> None:
    """Add the contact sheet of the first test set to TensorBoard's files."""
    path = contact_sheet_path(cfg, cfg.DATASETS.TEST[0])
    sheet = cv2.imread(path) if cfg.TEST.CONTACT_SHEET.NUM_IMAGES > 0 and os.path.isfile(path) else None
    if sheet is not None:
        with SummaryWriter(cfg.OUTPUT_DIR) as writer:
            writer.add_image(f"validation/{cfg.DATASETS.TEST[0]}", sheet[..., ::-1], iteration, dataformats="HWC")
