"""Merge the instances that were found in overlapping tiles into those of the image.

The result depends only on the tiles and their instances, not on the order in which they come, so that tiles may be
predicted anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .mask_crops import MaskCrops, intersection
from .tiles import TileGrid

# Whole instances of two tiles are the same object from this mask IoU, or this intersection over the smaller mask.
SAME_IOU, SAME_IOS = 0.5, 0.7
# Cut instances are parts of one object if their masks have this IoU where both tiles see them.
PART_IOU = 0.5


@dataclass
class Detections:
    """Instances of an image as arrays.

    Attributes:
        scores: float32 (N,).
        classes: int64 (N,).
        boxes: float32 (N, 4), XYXY in pixels of the image, as the model predicts them.
        masks: N masks in pixels of the image.
    """

    scores: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    masks: MaskCrops

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: np.ndarray | slice) -> Detections:
        return Detections(self.scores[index], self.classes[index], self.boxes[index], self.masks[index])

    @staticmethod
    def cat(parts: list[Detections]) -> Detections:
        """Return the instances of several lists of the same image."""
        arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in ("scores", "classes", "boxes"))
        return Detections(*arrays, MaskCrops.cat([part.masks for part in parts]))

    @staticmethod
    def of_parts(parts: list[Detections]) -> Detections:
        """Return the instances of an image that came in parts: one part as it is, several by falling score."""
        return parts[0] if len(parts) == 1 else Detections.cat(parts).by_score()

    @staticmethod
    def none(image_size: tuple[int, int]) -> Detections:
        """Return no instances of an image of size (height, width)."""
        boxes = np.zeros((0, 4), np.float32)
        return Detections(np.zeros(0, np.float32), np.zeros(0, np.int64), boxes, MaskCrops([], boxes, image_size))

    def by_score(self) -> Detections:
        """Return the instances by falling score; the order of equal scores depends on class and position only."""
        x0, y0, x1, y1 = self.masks.boxes.T
        return self[np.lexsort((x1, y1, x0, y0, self.classes, -self.scores))]


class TileMerger:
    """Merges the instances of tiles into those of the image.

    1. An instance that an inner edge of its tile cuts is dropped if another tile shows all of that part away from its
       inner edges: that tile shows more of the object, and what was found there counts.
    2. Of whole instances of one category from different tiles that are the same object (``SAME_IOU``, ``SAME_IOS``),
       the one with the highest score stays.
    3. The cut instances that are left belong to objects longer than the overlap. A part that lies in a whole instance
       (``SAME_IOS``) is dropped. Parts of one category that agree where both tiles show them (``PART_IOU``) become one
       instance, with the union of their masks and the score of the largest part.

    An object that is not longer than the overlap less twice the margin is whole in at least one tile.

    Args:
        grid: the tiles.
        margin: distance from an inner edge up to which an instance counts as cut, in pixels of the image. Masks of cut
            objects often stop a pixel before the edge.

    Attributes:
        cut_scores: scores of the instances returned so far that the edge of a tile may have cut.
    """

    def __init__(self, grid: TileGrid, margin: float) -> None:
        self.grid = grid
        self.margin = margin
        self.cut_scores: list[float] = []
        self._size = grid.height, grid.width
        self._found = Detections.none(self._size)
        self._tile_boxes, self._is_cut = np.zeros((0, 4), np.int64), np.zeros(0, bool)

    def add(self, row: int, column: int, detections: Detections) -> None:
        """Add the instances of a tile, in the frame of the image. Empty masks are dropped."""
        boxes = detections.masks.boxes
        is_cut = ~self.grid.is_whole(boxes, row, column, self.margin)
        kept = (boxes[:, 2] > boxes[:, 0]) & ~(is_cut & self.grid.is_whole_somewhere(boxes, self.margin))
        if kept.any():
            self._found = Detections.cat([self._found, detections[kept]])
            tile_boxes = np.repeat(self.grid.tile(row, column)[None], kept.sum(), 0)
            self._tile_boxes = np.concatenate((self._tile_boxes, tile_boxes))
            self._is_cut = np.concatenate((self._is_cut, is_cut[kept]))

    def settled(self, next_top: float = np.inf) -> Detections:
        """Return the instances that tiles to come cannot change, by falling score, and forget them.

        Args:
            next_top: the first row of pixels of the tiles that are still to come; infinite if there are none.
        """
        boxes = self._found.masks.boxes
        pairs = _touching_pairs(self._found.masks, self._found.classes, self._tile_boxes)
        number, component = _components(pairs, len(boxes))
        is_open = np.zeros(number, bool)
        is_open[component[boxes[:, 3] > next_top]] = True
        done = ~is_open[component]
        pairs = (np.cumsum(done) - 1)[pairs[done[pairs[:, 0]]]]
        merged = self._merge(self._found[done], self._tile_boxes[done], self._is_cut[done], pairs)
        self._found, self._is_cut = self._found[~done], self._is_cut[~done]
        self._tile_boxes = self._tile_boxes[~done]
        return merged.by_score()

    def _merge(self, found: Detections, tile_boxes: np.ndarray, is_cut: np.ndarray, pairs: np.ndarray) -> Detections:
        """Merge instances; ``pairs`` (P, 2) are those that can be the same."""
        masks, areas = found.masks, found.masks.areas()
        dropped = np.zeros(len(found), bool)
        num_cut = is_cut[pairs].sum(1)
        common = np.array([masks.common_pixels(i, j) for i, j in pairs], dtype=np.int64)
        first, second = areas[pairs].T
        is_same = (common >= SAME_IOU * (first + second - common)) | (common >= SAME_IOS * np.minimum(first, second))
        _drop_duplicates(found, pairs[(num_cut == 0) & is_same], dropped)
        whole_first = is_cut[pairs[:, 1]]
        whole, part = np.where(whole_first[:, None], pairs, pairs[:, ::-1]).T
        dropped[part[(num_cut == 1) & ~dropped[whole] & (common >= SAME_IOS * areas[part])]] = True
        parts = [
            pair for pair in pairs[num_cut == 2] if not dropped[pair].any() and _agree(masks, *pair, tile_boxes[pair])
        ]
        number, group = _components(np.array(parts, dtype=np.int64).reshape(-1, 2), len(found))
        sizes = np.bincount(group, minlength=number)
        alone = ~dropped & (sizes[group] == 1)
        self.cut_scores += found.scores[alone & is_cut].tolist()
        unions = [_union(found[group == g], areas[group == g]) for g in np.flatnonzero(sizes > 1)]
        return Detections.cat([found[alone], *unions])


def _touching_pairs(masks: MaskCrops, classes: np.ndarray, tile_boxes: np.ndarray) -> np.ndarray:
    """Return the pairs of instances of one category in different tiles whose boxes overlap, int64 (P, 2)."""
    pairs = masks.touching_pairs()
    first, second = pairs.T
    different = (tile_boxes[first] != tile_boxes[second]).any(1)
    return pairs[different & (classes[first] == classes[second])]


def _components(pairs: np.ndarray, length: int) -> tuple[int, np.ndarray]:
    """Return the number of groups of connected instances, and the group of each of them."""
    if not length:
        return 0, np.zeros(0, np.int64)
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(length, length))
    return connected_components(graph, directed=False)


def _agree(masks: MaskCrops, i: int, j: int, tile_boxes: np.ndarray) -> bool:
    """Return whether two masks have the IoU ``PART_IOU`` in the window that both tiles (2, 4) show."""
    shown = intersection(*tile_boxes)
    windows = [intersection(shown, masks.boxes[k]) for k in (i, j)]
    areas = [int(masks.part(k, window).sum()) for k, window in zip((i, j), windows)]
    window = intersection(*windows)
    common = int((masks.part(i, window) & masks.part(j, window)).sum())
    return common > 0 and common >= PART_IOU * (sum(areas) - common)


def _drop_duplicates(found: Detections, pairs: np.ndarray, dropped: np.ndarray) -> None:
    """Mark in ``dropped`` the whole instances that are the same object as one of higher score that stays."""
    same: dict[int, list[int]] = {}
    for i, j in pairs.tolist():
        same.setdefault(i, []).append(j)
        same.setdefault(j, []).append(i)
    index = np.array(list(same), dtype=np.int64)
    x0, y0, x1, y1 = found.masks.boxes[index].T
    for i in index[np.lexsort((x1, y1, x0, y0, -found.scores[index]))].tolist():
        if not dropped[i]:
            dropped[same[i]] = True


def _union(parts: Detections, areas: np.ndarray) -> Detections:
    """Return the parts of an object as one instance."""
    boxes = parts.masks.boxes
    left, top = boxes[:, :2].min(0)
    right, bottom = boxes[:, 2:].max(0)
    crop = np.zeros((bottom - top, right - left), bool)
    for part, (x0, y0, x1, y1) in zip(parts.masks.crops, boxes):
        crop[y0 - top : y1 - top, x0 - left : x1 - left] |= part
    largest = np.lexsort((boxes[:, 0], boxes[:, 1], -areas))[:1]
    box = np.array([[left, top, right, bottom]])
    masks = MaskCrops([crop], box, parts.masks.image_size)
    return Detections(parts.scores[largest], parts.classes[largest], box.astype(np.float32), masks)
