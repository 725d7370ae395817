"""Masks of instances as crops: memory grows with the instances, not with the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import shapely
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from ..masks import tight_edges


class MaskCrops:
    """Masks of an image, each stored as the part of it in its tight box.

    A list of bool (H, W) arrays for everything that iterates over masks, such as Detectron2's COCO evaluator. Indexing
    with an integer, iterating, ``np.asarray`` and :meth:`to_tensor` decode to the image's size; the other methods do
    not.

    Attributes:
        crops: N bool arrays (h, w), one per mask.
        boxes: int64 (N, 4), XYXY in pixels of the image: where each crop lies.
        image_size: (height, width) of the image.
    """

    def __init__(self, crops: Sequence[np.ndarray], boxes: np.ndarray, image_size: tuple[int, int]) -> None:
        self.crops = list(crops)
        self.boxes = np.asarray(boxes, dtype=np.int64).reshape(-1, 4)
        self.image_size = int(image_size[0]), int(image_size[1])

    @classmethod
    def from_masks(cls, masks: Tensor | MaskCrops) -> MaskCrops:
        """Crop masks, bool (N, H, W), to their tight boxes; an empty mask gets an empty crop at (0, 0)."""
        if isinstance(masks, MaskCrops):
            return masks
        boxes = tight_edges(masks).cpu().numpy() if len(masks) else np.zeros((0, 4), np.int64)
        array = masks.cpu().numpy()
        crops = [array[i, y0:y1, x0:x1].copy() for i, (x0, y0, x1, y1) in enumerate(boxes)]
        return cls(crops, boxes, tuple(masks.shape[1:]))

    def __len__(self) -> int:
        return len(self.crops)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, item: Any) -> np.ndarray | MaskCrops:
        """Return mask ``item``, bool (H, W), for an integer; else the ``MaskCrops`` of a slice, bool or index array."""
        if isinstance(item, (int, np.integer)):
            mask = np.zeros(self.image_size, bool)
            x0, y0, x1, y1 = self.boxes[item]
            mask[y0:y1, x0:x1] = self.crops[item]
            return mask
        if isinstance(item, Tensor):
            item = item.cpu().numpy()
        index = np.arange(len(self))[item]
        return MaskCrops([self.crops[i] for i in index], self.boxes[index], self.image_size)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        masks = np.zeros((len(self), *self.image_size), bool)
        for i, (x0, y0, x1, y1) in enumerate(self.boxes):
            masks[i, y0:y1, x0:x1] = self.crops[i]
        return masks if dtype is None else masks.astype(dtype)

    def __repr__(self) -> str:
        return f"MaskCrops({len(self)} masks of {self.image_size[0]} x {self.image_size[1]} pixels)"

    def to(self, *args: Any, **kwargs: Any) -> MaskCrops:
        """Return itself: crops are on the CPU. ``Instances.to`` calls this."""
        return self

    def cpu(self) -> MaskCrops:
        """Return itself: crops are on the CPU."""
        return self

    def numpy(self) -> np.ndarray:
        """Return bool (N, H, W)."""
        return np.asarray(self)

    def to_tensor(self) -> Tensor:
        """Return bool (N, H, W)."""
        return torch.from_numpy(np.asarray(self))

    def areas(self) -> np.ndarray:
        """Return the pixels of each mask, int64 (N,)."""
        return np.array([int(crop.sum()) for crop in self.crops], dtype=np.int64)

    def common_pixels(self, i: int, j: int) -> int:
        """Return the number of pixels that masks i and j have in common."""
        window = intersection(self.boxes[i], self.boxes[j])
        return int((self.part(i, window) & self.part(j, window)).sum())

    def touching_pairs(self) -> np.ndarray:
        """Return the pairs i < j of masks whose boxes touch, int64 (P, 2)."""
        shapes = shapely.box(*self.boxes.T)
        first, second = shapely.STRtree(shapes).query(shapes)
        return np.stack((first, second), 1)[first < second]

    def part(self, i: int, window: np.ndarray) -> np.ndarray:
        """Return mask i in a window XYXY inside its box, bool (h, w)."""
        left, top = self.boxes[i, :2]
        return self.crops[i][window[1] - top : window[3] - top, window[0] - left : window[2] - left]

    def moved(self, left: int, top: int, image_size: tuple[int, int]) -> MaskCrops:
        """Return the masks in an image of another size, in which this image's upper left corner is (left, top)."""
        return MaskCrops(self.crops, self.boxes + np.array([left, top, left, top]), image_size)

    @staticmethod
    def cat(parts: Sequence[MaskCrops]) -> MaskCrops:
        """Return the masks of several lists of the same image; ``Instances.cat`` calls this."""
        crops = [crop for part in parts for crop in part.crops]
        return MaskCrops(crops, np.concatenate([part.boxes for part in parts]), parts[0].image_size)

    def to_rles(self) -> list[dict]:
        """Return the masks as compressed RLE of the image's size, as pycocotools encodes the whole masks.

        The runs are computed from the crops, so the cost does not depend on the size of the image.
        """
        return [_rle(crop, x0, y0, *self.image_size) for crop, (x0, y0, _, _) in zip(self.crops, self.boxes)]


def intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the window XYXY that two boxes XYXY have in common; without one, a window without pixels."""
    start = np.maximum(first[:2], second[:2])
    return np.concatenate((start, np.maximum(start, np.minimum(first[2:], second[2:]))))


def _rle(crop: np.ndarray, left: int, top: int, height: int, width: int) -> dict:
    """Return the RLE, with pycocotools' bytes, of a mask (height, width) that is ``crop`` at (left, top)."""
    columns, rows = np.nonzero(crop.T)
    pixels = (columns + left) * height + rows + top  # RLE counts down the columns
    if not len(pixels):
        counts = [height * width]
    else:
        ends = np.flatnonzero(np.diff(pixels) > 1)
        starts = pixels[np.concatenate(([0], ends + 1))]
        stops = pixels[np.concatenate((ends, [len(pixels) - 1]))] + 1
        edges = np.stack((starts, stops), 1).ravel()
        counts = np.diff(np.concatenate(([0], edges, [height * width]))).tolist()
        if counts[-1] == 0:
            counts.pop()
    return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
