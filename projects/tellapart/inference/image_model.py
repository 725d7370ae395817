"""Run a model on one image, on the whole of it or tile by tile."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from ..data.image_source import ImageSource
from ..data.mapper import ResizeAnyImage, ResizeChannels
from ..engine.model_info import ModelInfo
from ..engine.size_checks import eval_resize_factors
from ..errors import InputError
from .mask_crops import MaskCrops
from .merging import Detections, TileMerger
from .tiles import TileGrid

logger = logging.getLogger(__name__)
_CUT_MARGIN = 2.0  # pixels of the network's input: masks of cut objects often stop a pixel before a tile's edge
_UNKNOWN_OVERLAP = 0.25  # of a tile, where the size of the objects in training is not known


class ImageModel:
    """A model that takes one image of any size, resized as in evaluation.

    Args:
        model: in evaluation mode.
        cfg: its config.
    """

    def __init__(self, model: nn.Module, cfg: CfgNode) -> None:
        self.model = model
        self.cfg = cfg
        edge = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self._resize = ResizeAnyImage(edge)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, input_size: tuple[int, int] | None = None) -> Instances:
        """Return the instances of an image, in its pixels.

        Args:
            image: (H, W, C) in the format ``INPUT.FORMAT``, uint8 or float32.
            input_size: (height, width) of the network's input; None: as in evaluation, by ``INPUT.MIN_SIZE_TEST``.
        """
        return self.model([self.inputs(image, input_size)])[0]["instances"]

    def inputs(self, image: np.ndarray, input_size: tuple[int, int] | None = None) -> dict:
        """Return the network's input of an image, see :meth:`__call__`: ``image`` (C, h, w), ``height``, ``width``."""
        height, width = image.shape[:2]
        if input_size is None:
            transform = self._resize.get_transform(image)
        else:
            resize = T.ResizeTransform if image.shape[2] in (1, 3) else ResizeChannels
            transform = resize(height, width, *input_size, Image.BILINEAR)
        resized = np.ascontiguousarray(transform.apply_image(image).transpose(2, 0, 1))
        return {"image": torch.as_tensor(resized), "height": height, "width": width}

    def test_scale(self, height: int, width: int) -> float:
        """Return the factor by which evaluation resizes an image."""
        return float(eval_resize_factors(self.cfg, np.array([[height, width]]))[0])


def to_detections(instances: Instances) -> Detections:
    """Return the instances of a model as arrays; of those without masks, the boxes are the masks."""
    instances = instances.to("cpu")
    boxes = instances.pred_boxes.tensor.numpy()
    if instances.has("pred_masks"):
        masks = MaskCrops.from_masks(instances.pred_masks)
    else:
        masks = _box_masks(boxes, instances.image_size)
    return Detections(instances.scores.numpy(), instances.pred_classes.numpy(), boxes, masks)


def _box_masks(boxes: np.ndarray, image_size: tuple[int, int]) -> MaskCrops:
    low = np.floor(boxes[:, :2]).clip(0)
    high = np.minimum(np.ceil(boxes[:, 2:]), image_size[::-1])
    pixels = np.concatenate((low, np.maximum(low, high)), 1).astype(np.int64)
    crops = [np.ones((y1 - y0, x1 - x0), bool) for x0, y0, x1, y1 in pixels]
    return MaskCrops(crops, pixels, image_size)


def to_instances(detections: Detections) -> Instances:
    """Return detections as Detectron2's ``Instances``, with ``pred_masks`` as :class:`MaskCrops`."""
    instances = Instances(detections.masks.image_size)
    instances.pred_boxes = Boxes(torch.as_tensor(detections.boxes))
    instances.scores = torch.as_tensor(detections.scores)
    instances.pred_classes = torch.as_tensor(detections.classes)
    instances.pred_masks = detections.masks
    return instances


@dataclass(frozen=True)
class Tiling:
    """How an image is cut into tiles.

    Attributes:
        tile, overlap: pixels of the image.
        scale: factor by which tiles are resized.
    """

    tile: int
    overlap: int
    scale: float

    def grid(self, height: int, width: int) -> TileGrid:
        """Return the tiles of an image."""
        return TileGrid.cover(height, width, self.tile, self.overlap)


def parse_tile(value: str | int) -> str | int:
    """Return the value of ``--tile`` or ``TEST.TILE``: "auto", "off" or a number of pixels.

    Raises:
        InputError: it is none of these.
    """
    if value in ("auto", "off"):
        return value
    pixels = int(value) if str(value).isdecimal() else 0
    if pixels < 32:
        raise InputError(f"tile is {value!r}, expected auto, off, or the side of a tile in pixels, at least 32")
    return pixels


def choose_tiling(
    image_model: ImageModel, info: ModelInfo | None, tile: str | int, height: int, width: int
) -> Tiling | None:
    """Decide whether and how an image is cut into tiles.

    Args:
        image_model: the model.
        info: what is known of its training.
        tile: "off"; a number of pixels; or "auto": tiles in the median scale of training, of the size that evaluation
            gives images, if the image would be resized to less than the 5th percentile of the scales of training.
        height, width: of the image, pixels.

    Returns:
        None: the whole image at once, which is also the case if it fits into one tile.
    """
    scale = info.scale if info is not None else None
    short = image_model.cfg.INPUT.MIN_SIZE_TEST
    if tile == "off":
        return None
    if tile == "auto":
        if scale is None or not short or image_model.test_scale(height, width) >= 0.99 * info.scale_low:
            return None
        tile = max(32, round(short / scale))
    elif scale is None:
        scale = image_model.test_scale(tile, tile)
    if max(height, width) <= tile:
        return None
    margin = 2 * _CUT_MARGIN / scale
    overlap = _UNKNOWN_OVERLAP * tile
    if info is not None and info.object_size:
        overlap = min(max(info.object_size / scale, tile / 8), tile / 2 - margin)
    return Tiling(tile, math.ceil(overlap + margin), scale)


def predict_tiles(
    image_model: ImageModel,
    source: ImageSource,
    tiling: Tiling,
    on_tile: Callable[[Detections], None] = lambda detections: None,
    threshold: float = 0.0,
) -> Iterator[Detections]:
    """Predict an image tile by tile, and yield its instances as soon as tiles to come cannot change them.

    Args:
        image_model: the model.
        source: the image.
        tiling: see :func:`choose_tiling`.
        on_tile: called with the instances of each tile.
        threshold: score from which instances that may be cut are counted, for a warning.

    Yields:
        After each row of tiles, the instances that are finished, by falling score, in the frame of the image.
    """
    grid = tiling.grid(source.height, source.width)
    merger = TileMerger(grid, _CUT_MARGIN / tiling.scale)
    size = max(1, round(grid.tile_height * tiling.scale)), max(1, round(grid.tile_width * tiling.scale))
    for row in range(len(grid.tops)):
        for column in range(len(grid.lefts)):
            x0, y0, x1, y1 = grid.tile(row, column)
            found = to_detections(image_model(source.window(x0, y0, x1, y1), size))
            on_tile(found)
            found.masks = found.masks.moved(x0, y0, (grid.height, grid.width))
            found.boxes = found.boxes + np.array([x0, y0, x0, y0], dtype=np.float32)
            merger.add(row, column, found)
        yield merger.settled(grid.tops[row + 1] if row + 1 < len(grid.tops) else math.inf)
    num_cut = sum(score >= threshold for score in merger.cut_scores)
    if num_cut:
        logger.warning(
            "%d instances may be cut at the edges of tiles, because they are longer than the overlap of %d px: use "
            "larger tiles",
            num_cut, tiling.overlap,
        )  # fmt: skip
