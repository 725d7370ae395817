"""Evaluate in tiles: a test loader of whole images, and a model that cuts them."""

from __future__ import annotations

import logging

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import nn

from ..data.image_reading import ImageReader
from ..data.image_source import ImageSource, open_source
from ..engine.model_info import ModelInfo
from .image_model import ImageModel, choose_tiling, parse_tile, predict_tiles, to_instances
from .limits import UNKNOWN_THRESHOLD, Limits
from .merging import Detections

logger = logging.getLogger(__name__)


def uses_tiles(cfg: CfgNode) -> bool:
    """Return whether ``TEST.TILE`` lets images be evaluated in tiles.

    Raises:
        InputError: its value is invalid.
    """
    return cfg.TEST.TILE is not None and parse_tile(cfg.TEST.TILE) != "off"


def opening_mapper(cfg: CfgNode) -> _OpeningMapper:
    """Return a mapper for a test loader that opens images without resizing them."""
    return _OpeningMapper(ImageReader.from_cfg(cfg), cfg.INPUT.FORMAT)


class _OpeningMapper:
    """Dataset dict -> the same with ``source``, an ``ImageSource``. A class, because workers need to pickle it."""

    def __init__(self, reader: ImageReader, format: str) -> None:
        self.reader, self.format = reader, format

    def __call__(self, record: dict) -> dict:
        source = open_source(record["file_name"], self.reader, self.format)
        size = {"height": source.height, "width": source.width}
        return {**{key: value for key, value in record.items() if key != "annotations"}, **size, "source": source}


class TiledModel:
    """A model for Detectron2's ``inference_on_dataset`` whose inputs are those of :func:`opening_mapper`.

    Args:
        model: the network; it is set to evaluation mode.
        cfg: its config, with ``TEST.TILE``.
        info: what is known of its training.
        dense: return ``pred_masks`` as a tensor (N, H, W), for evaluators that need it.
    """

    def __init__(self, model: nn.Module, cfg: CfgNode, info: ModelInfo | None, dense: bool = False) -> None:
        self.dense = dense
        self.image_model = ImageModel(model.eval(), cfg)
        self.tile = parse_tile(cfg.TEST.TILE)
        self.info = info
        self._limits = Limits(cfg, info)
        known = info is not None and info.score_threshold is not None
        self._threshold = info.score_threshold if known else UNKNOWN_THRESHOLD

    def __call__(self, inputs: list[dict]) -> list[dict]:
        """Return ``{"instances": Instances}`` per image, see :class:`Predictor`."""
        return [{"instances": self._predict(one["source"])} for one in inputs]

    def _predict(self, source: ImageSource) -> Instances:
        tiling = choose_tiling(self.image_model, self.info, self.tile, source.height, source.width)
        if tiling is None:
            self._limits.add_resized(self.image_model.test_scale(source.height, source.width))
            image = source.window(0, 0, source.width, source.height)
            return self.image_model(np.ascontiguousarray(image))
        self._limits.add_tiled(source, tiling)
        parts = predict_tiles(self.image_model, source, tiling, self._count_full, self._threshold)
        instances = to_instances(Detections.of_parts(list(parts)))
        if self.dense:
            instances.pred_masks = instances.pred_masks.to_tensor()
        return instances

    def _count_full(self, found: Detections) -> None:
        self._limits.num_full_tiles += self._limits.is_full(found.scores, self._threshold)

    def log_limits(self) -> None:
        """Log what may have made the instances incomplete, with the numbers of all processes."""
        first, *others = comm.gather(self._limits, dst=0) or [self._limits]
        for other in others:
            first.add(other)
        for line in first.notes():
            logger.info(line)
        for line in first.warnings():
            logger.warning(line)
