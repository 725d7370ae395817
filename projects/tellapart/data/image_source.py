"""Pixels of an image by window, so that a large TIFF need not be in memory."""

from __future__ import annotations

import dataclasses
import logging
from typing import Protocol

import numpy as np
import tifffile
from detectron2.utils.file_io import PathManager

from .image_reading import ImageReader
from .pixel_scaling import PERCENTILES

logger = logging.getLogger(__name__)
_MIN_MAPPED_PIXELS = 2**25  # smaller TIFFs are read like all other images
_MAX_SAMPLED = 2**24  # pixels of a float image that its percentiles are computed from
_STRIP = 512  # rows that are counted at a time


class ImageSource(Protocol):
    """An image whose windows can be read.

    Attributes:
        height, width: in pixels.
    """

    height: int
    width: int

    def window(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """Return the pixels of a window as the model's input is read, (h, w, C)."""

    def stored(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """Return the pixels of a window with the values of the file, not scaled, (h, w, C)."""


class ArraySource:
    """An image in memory.

    Args:
        pixels: (H, W, C), as the model's input is read.
        stored: (H, W, C), with the values of the file.
    """

    def __init__(self, pixels: np.ndarray, stored: np.ndarray) -> None:
        self.pixels, self._stored = pixels, stored
        self.height, self.width = pixels.shape[:2]

    def window(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """See :class:`ImageSource`."""
        return self.pixels[y0:y1, x0:x1]

    def stored(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """See :class:`ImageSource`."""
        return self._stored[y0:y1, x0:x1]


class MappedSource:
    """A TIFF that is stored in one piece and mapped into memory: only what is used is read.

    Args:
        pixels: memory map, (H, W) or (H, W, colors).
        reader: as for other images. Percentiles are those of the whole image; of decimals, those of a part of it.
        file_name: for messages.
        format: ``INPUT.FORMAT``.
    """

    def __init__(self, pixels: np.ndarray, reader: ImageReader, file_name: str, format: str) -> None:
        self._pixels, self._file_name, self._format = pixels, file_name, format
        self.height, self.width = pixels.shape[:2]
        scaling = reader.options.scaling
        if scaling == "percentile" or scaling == "auto" and pixels.dtype != np.uint8:
            scaling = percentiles(pixels)
            logger.info("%s is scaled from %g to %g, its %g and %g percentiles", file_name, *scaling, *PERCENTILES)
        self._reader = ImageReader(dataclasses.replace(reader.options, scaling=scaling))

    def window(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """See :class:`ImageSource`."""
        pixels = np.ascontiguousarray(self._pixels[y0:y1, x0:x1])
        return self._reader.finish(pixels, pixels.ndim == 3, self._file_name, self._format)

    def stored(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """See :class:`ImageSource`."""
        pixels = np.asarray(self._pixels[y0:y1, x0:x1])
        return pixels if pixels.ndim == 3 else pixels[..., None]


def open_source(file_name: str, reader: ImageReader, format: str) -> ImageSource:
    """Open an image file.

    A large uncompressed TIFF with one page of gray values or colors is mapped into memory, and ``INPUT.MAX_PIXELS``,
    a protection against files that unpack to more, does not apply to it. Any other file is read as a whole.

    Raises:
        OSError, InputError: see :class:`ImageReader`.
    """
    pixels = _map_tiff(file_name)
    if pixels is not None and (pixels.ndim == 2 or pixels.shape[2] == reader.options.num_channels == 3):
        return MappedSource(pixels, reader, file_name, format)
    pixels = reader(file_name, format)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    info = reader.describe(file_name)
    if info.bit_depth == 8 and reader.options.scaling in ("auto", "full_range", "none"):
        values = pixels
    else:
        values = ImageReader(dataclasses.replace(reader.options, scaling="none"))(file_name, format)
        values = values if values.ndim == 3 else values[..., None]
    if format == "BGR" and values.shape[2] == 3:
        values = values[..., ::-1]
    return ArraySource(pixels, values[..., :1] if info.num_channels == 1 and values.shape[2] == 3 else values)


def _map_tiff(file_name: str) -> np.ndarray | None:
    """Return a memory map of a large TIFF's pixels, (H, W) or (H, W, colors); None for any other file."""
    if not file_name.lower().endswith((".tif", ".tiff")):
        return None
    try:
        path = PathManager.get_local_path(file_name)
        with tifffile.TiffFile(path) as tiff:
            page, series = tiff.pages[0], tiff.series[0]
            turned = page.tags.get(274)
            if series.axes not in ("YX", "YXS") or len(tiff.pages) > 1 or turned is not None and turned.value != 1:
                return None
            if page.imagelength * page.imagewidth < _MIN_MAPPED_PIXELS or not page.is_memmappable:
                return None
        return tifffile.memmap(path, mode="r")
    except Exception:  # the reader names what is wrong with the file
        return None


def percentiles(pixels: np.ndarray) -> tuple[float, float]:
    """Return the ends of the range that the scaling "percentile" uses, see :func:`scale_pixels`.

    Integers of 8 and 16 bits are counted strip by strip, which gives the values of ``np.percentile``. For others, rows
    and columns are left out until there are at most 2^24 pixels.
    """
    if pixels.dtype not in (np.uint8, np.uint16):
        step = int(np.ceil(np.sqrt(pixels.size / _MAX_SAMPLED)))
        values = np.asarray(pixels[::step, ::step]).ravel()
        values = values[np.isfinite(values)]
        if not len(values):
            return 0.0, 1.0
        low, high = (float(value) for value in np.percentile(values, PERCENTILES))
        return (low, high) if high > low else (float(values.min()), float(values.max()) + 1.0)
    counts = np.zeros(np.iinfo(pixels.dtype).max + 1, np.int64)
    for top in range(0, len(pixels), _STRIP):
        counts += np.bincount(pixels[top : top + _STRIP].ravel(), minlength=len(counts))
    ranks = np.array(PERCENTILES) / 100.0 * (counts.sum() - 1)
    cumulative = counts.cumsum()
    below, above = (np.searchsorted(cumulative, side(ranks), side="right") for side in (np.floor, np.ceil))
    low, high = below + (above - below) * (ranks - np.floor(ranks))
    if not high > low:
        used = np.flatnonzero(counts)
        low, high = used[0], max(used[-1], used[0] + 1)
    return float(low), float(high)
