"""What may make the instances of an image incomplete: limits of their number, and images that are shrunk."""

from __future__ import annotations

import numpy as np
from detectron2.config import CfgNode

from ..data.image_source import ImageSource
from ..engine.model_info import ModelInfo, is_class_agnostic
from ..engine.size_checks import SHRUNK
from .image_model import Tiling

UNKNOWN_THRESHOLD = 0.5  # score from which instances count where none was chosen on validation images


class Limits:
    """Counts the images for which a limit was reached, for one warning each at the end.

    Attributes:
        num_full_images, num_full_tiles: with as many instances above the threshold as the model can return.
        num_empty: instances that were left out because their masks have no pixel.
    """

    def __init__(self, cfg: CfgNode, info: ModelInfo | None) -> None:
        self._limit, self._key = cfg.TEST.DETECTIONS_PER_IMAGE, "TEST.DETECTIONS_PER_IMAGE"
        proposals = cfg.MODEL.RPN.POST_NMS_TOPK_TEST, "MODEL.RPN.POST_NMS_TOPK_TEST"
        if cfg.MODEL.META_ARCHITECTURE == "InstanceFCN":
            proposals = cfg.MODEL.INSTANCE_FCN.POST_NMS_TOPK, "MODEL.INSTANCE_FCN.POST_NMS_TOPK"
            if is_class_agnostic(cfg):
                self._limit, self._key = proposals
        if cfg.MODEL.META_ARCHITECTURE != "SemiConvColoring" and not 0 <= self._limit <= proposals[0]:
            self._limit, self._key = proposals
        self._scale = info.scale if info is not None else None
        self.num_full_images = self.num_full_tiles = 0
        self.num_empty = 0
        self._num_shrunk, self._smallest = 0, np.inf
        self._num_tiled, self._num_tiles = 0, 0
        self._tiling: Tiling | None = None

    def is_full(self, scores: np.ndarray, threshold: float) -> bool:
        """Return whether as many instances are above the threshold as the model can return."""
        return 0 < self._limit <= int((scores >= threshold).sum())

    def add_resized(self, scale: float) -> None:
        """Count an image that is resized by a factor."""
        if self._scale is not None and scale < SHRUNK * self._scale:
            self._num_shrunk += 1
            self._smallest = min(self._smallest, scale)

    def add_tiled(self, source: ImageSource, tiling: Tiling) -> None:
        """Count an image that is predicted in tiles."""
        self._num_tiled += 1
        self._num_tiles += len(tiling.grid(source.height, source.width))
        self._tiling = tiling

    def add(self, other: Limits) -> None:
        """Add the counts of another process."""
        self.num_full_images += other.num_full_images
        self.num_full_tiles += other.num_full_tiles
        self.num_empty += other.num_empty
        self._num_shrunk += other._num_shrunk
        self._smallest = min(self._smallest, other._smallest)
        self._num_tiled += other._num_tiled
        self._num_tiles += other._num_tiles
        self._tiling = self._tiling or other._tiling

    def notes(self) -> list[str]:
        """Return one line per matter that a user should know; none if nothing was limited."""
        notes = []
        if self._tiling is not None:
            notes.append(
                f"{self._num_tiled} images predicted in {self._num_tiles} tiles (the last of {self._tiling.tile} px, "
                f"overlap {self._tiling.overlap} px, resized by {self._tiling.scale:.3g})"
            )
        if self.num_empty:
            notes.append(f"{self.num_empty} instances without a pixel are left out")
        return notes

    def warnings(self) -> list[str]:
        """Return one line per limit that was reached."""
        lines = []
        for number, what in ((self.num_full_images, "images"), (self.num_full_tiles, "tiles")):
            if number:
                lines.append(
                    f"{number} {what} have as many instances as {self._key} ({self._limit}) allows, and some may be "
                    "missing: set it higher"
                )
        if self._num_shrunk:
            lines.append(
                f"{self._num_shrunk} images were resized to less than half of the training images' scale (by "
                f"{self._smallest:.3g}, in training by {self._scale:.3g}), so that small objects may be missing: use "
                "tiles (auto)"
            )
        return lines
