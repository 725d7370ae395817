"""A grid of overlapping tiles that covers an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TileGrid:
    """Tiles of equal size in rows and columns, spread evenly over an image, neighbors overlapping.

    Attributes:
        height, width: of the image, pixels.
        tops, lefts: first pixels of the rows and columns of tiles.
        tile_height, tile_width: of every tile, pixels.
    """

    height: int
    width: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    tile_height: int
    tile_width: int

    @classmethod
    def cover(cls, height: int, width: int, tile: int, overlap: int) -> TileGrid:
        """Return the grid for an image.

        Args:
            height, width: of the image, pixels.
            tile: side of the tiles, pixels. A side of the image that is not longer has one tile of its length.
            overlap: least overlap of neighboring tiles, pixels; less than ``tile``.
        """
        tops, lefts = _starts(height, tile, overlap), _starts(width, tile, overlap)
        return cls(height, width, tops, lefts, min(tile, height), min(tile, width))

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def tile(self, row: int, column: int) -> np.ndarray:
        """Return a tile as XYXY in pixels, int64 (4,)."""
        x, y = self.lefts[column], self.tops[row]
        return np.array([x, y, x + self.tile_width, y + self.tile_height])

    def is_whole(self, boxes: np.ndarray, row: int, column: int, margin: float) -> np.ndarray:
        """Return whether the tile's inner edges leave the objects in ``boxes`` whole.

        Args:
            boxes: (N, 4), XYXY in pixels of the image.
            row, column: of the tile.
            margin: distance in pixels from an inner edge, up to which an object counts as cut. Edges on the border of
                the image cut nothing.

        Returns:
            bool (N,).
        """
        rows = _between(boxes[:, 1], boxes[:, 3], self.tops[row : row + 1], self.tile_height, self.height, margin)
        columns = _between(
            boxes[:, 0], boxes[:, 2], self.lefts[column : column + 1], self.tile_width, self.width, margin
        )
        return rows & columns

    def is_whole_somewhere(self, boxes: np.ndarray, margin: float) -> np.ndarray:
        """Return whether any tile leaves the objects in ``boxes`` whole, see :meth:`is_whole`; bool (N,)."""
        rows = _between(boxes[:, 1], boxes[:, 3], self.tops, self.tile_height, self.height, margin)
        return rows & _between(boxes[:, 0], boxes[:, 2], self.lefts, self.tile_width, self.width, margin)


def _starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    """Return the first pixel of each tile along an axis."""
    if length <= tile:
        return (0,)
    number = 1 + -(-(length - tile) // (tile - overlap))
    return tuple(np.linspace(0, length - tile, number).round().astype(int).tolist())


def _between(
    low: np.ndarray, high: np.ndarray, starts: tuple[int, ...], side: int, length: int, margin: float
) -> np.ndarray:
    """Return whether each interval (low, high) lies inside any of the intervals (start, start + side); bool (N,)."""
    first = np.array(starts, dtype=np.float64)
    last = first + side
    first = np.where(first == 0, -np.inf, first + margin)
    last = np.where(last == length, np.inf, last - margin)
    return ((low[:, None] >= first) & (high[:, None] <= last)).any(1)
