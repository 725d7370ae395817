"""Read images of any bit depth, channels and pages as the model needs them.

An 8-bit image is read exactly as Detectron2's ``detection_utils.read_image`` reads it. Everything else (16-bit, float,
1-bit, stacks of pages, more than three channels) is brought to 8 bits by ``INPUT.SCALING``, so that the network sees a
picture and not black or white.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import cv2
import numpy as np
import tifffile
from detectron2.config import CfgNode
from detectron2.data import detection_utils as utils
from detectron2.utils.file_io import PathManager
from PIL import Image

from ..errors import InputError
from .orientation import ORIENTATION_TAG, apply_orientation, image_orientation, turn_image, valid_orientation
from .pixel_scaling import scale_pixels
from .reading_options import ReadingOptions
from .tiff_check import check_pages

logger = logging.getLogger(__name__)
_BITS_PER_SAMPLE, _IMAGE_DESCRIPTION, _SAMPLES_PER_PIXEL = 258, 270, 277  # TIFF tags
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_logged: set[str] = set()


@dataclass(frozen=True)
class ImageInfo:
    """What the header of an image file says.

    Attributes:
        width, height: in pixels, as the reader returns the image.
        raw_width, raw_height: in pixels, without the EXIF orientation.
        mode: Pillow's mode, or for a TIFF that Pillow does not read the axes and the dtype, such as "CYX uint16".
        bit_depth: bits per sample.
        num_channels: of one page, without alpha.
        num_pages: pages, frames, slices or channels that are stored as pages.
        orientation: of EXIF, 1 to 8.
    """

    width: int
    height: int
    raw_width: int
    raw_height: int
    mode: str
    bit_depth: int
    num_channels: int
    num_pages: int
    orientation: int


class ImageReader:
    """Reads image files; a replacement for ``detectron2.data.detection_utils.read_image``."""

    def __init__(self, options: ReadingOptions | None = None) -> None:
        self.options = options or ReadingOptions()

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> ImageReader:
        """Return the reader of a config; see :meth:`ReadingOptions.from_cfg`."""
        return cls(ReadingOptions.from_cfg(cfg))

    def __call__(self, file_name: str, format: str | None = None) -> np.ndarray:
        """Read an image.

        Args:
            file_name: a path that Detectron2's ``PathManager`` can open.
            format: ``INPUT.FORMAT``, such as "BGR". None: as stored. It is not used for models with another number of
                input channels than 3.

        Returns:
            (H, W, C), or (H, W) for a gray image and ``format`` None. uint8; float32 with the scaling "none" for an
            image that does not have 8 bits.

        Raises:
            FileNotFoundError: the file does not exist.
            OSError: the file is not an image or is truncated.
            InputError: the image has too many pixels or another number of channels than the model.
        """
        with _open_file(file_name) as file:
            return self._read(file, file_name, format)

    def picture(self, file_name: str) -> np.ndarray:
        """Read an image to look at: uint8 BGR (H, W, 3). Of other than 3 channels, the first three are shown.

        Raises:
            OSError, InputError: see :meth:`__call__`.
        """
        image = self(file_name, "BGR")
        if image.dtype != np.uint8:
            image = scale_pixels(image, "percentile", per_channel=True)
        channels = [min(i, image.shape[2] - 1) for i in range(3)]
        return image if image.shape[2] == 3 else np.ascontiguousarray(image[..., channels])

    def _read(self, file: IO[bytes], file_name: str, format: str | None) -> np.ndarray:
        start = file.read(32)
        file.seek(0)
        if start[:8] == b"\x89PNG\r\n\x1a\n" and start[24:25] == b"\x10":
            return self.finish(*self._read_png_16(file, file_name), file_name, format)
        image = self._open_with_pillow(file, file_name, start)
        if image is None:
            return self.finish(*self._read_tiff(file, file_name), file_name, format)
        if _num_samples(image) > len(image.getbands()):
            _log_once(
                "samples",
                f"{file_name} has {_num_samples(image)} channels, and only the {image.mode} ones are used "
                "(MODEL.PIXEL_MEAN with as many values uses all)",
                logging.WARNING,
            )
        if self.options.pages != "first" or image.format not in ("PNG", "JPEG"):
            num_frames = getattr(image, "n_frames", 1)
            if num_frames > 1 and self.options.pages != "first":
                frames = []
                for i in range(num_frames):
                    image.seek(i)
                    frames.append(np.asarray(image.convert("L")))
                return self.finish(*self._combine(np.stack(frames, axis=2)), file_name, format)
            self._warn_of_pages(num_frames, file_name)
        if image.mode in ("F", "I") or image.mode.startswith("I;"):
            return self.finish(self._oriented(np.asarray(image), image), False, file_name, format)
        return self._finish_8_bit(image, file_name, format)

    def _open_with_pillow(self, file: IO[bytes], file_name: str, start: bytes) -> Image.Image | None:
        """Open an image with Pillow; return None for a TIFF that tifffile must read."""
        is_tiff = start[:4] in _TIFF_STARTS
        try:
            image = self._open(file, file_name)
        except OSError:
            if not is_tiff:
                raise
            return None  # tifffile reads more kinds of TIFF
        return None if is_tiff and _needs_tifffile(image, self.options) else image

    def _open(self, file: IO[bytes], file_name: str) -> Image.Image:
        """Open an image with Pillow, with the limit of the config instead of Pillow's."""
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
        self._check_size(*image.size, file_name)
        return image

    def _check_size(self, width: int, height: int, file_name: str) -> None:
        if width * height > self.options.max_pixels:
            raise InputError(
                f"Image {file_name} has {width} x {height} = {width * height} pixels, and INPUT.MAX_PIXELS is "
                f"{self.options.max_pixels}: set it higher, or cut the image into tiles"
            )

    def _finish_8_bit(self, image: Image.Image, file_name: str, format: str | None) -> np.ndarray:
        """Convert an 8-bit (or 1-bit) image of Pillow as Detectron2 does."""
        image.load()  # a TIFF is turned here, and forgets its orientation
        if self.options.exif == "apply":
            image = turn_image(image, image_orientation(image))
        num_channels = self.options.num_channels
        if num_channels == 1:
            format = "L"
        elif num_channels != 3 and format is not None:
            if len(image.getbands()) != num_channels:
                raise self._wrong_channels(file_name, len(image.getbands()))
            format = image.mode
        array = utils.convert_PIL_to_numpy(image, format)
        if self.options.scaling == "auto":
            if array.dtype != np.uint8 or array[::16, ::16].max() > 1 or array.max() != 1:
                return array
            _log_once("images of 0 and 1", f"{file_name} has only 0 and 1: scaled to 0 and 255 (INPUT.SCALING auto)")
            return array * np.uint8(255)
        if self.options.scaling in ("full_range", "none"):
            return array
        return scale_pixels(array, self.options.scaling, per_channel=num_channels != 3)

    def finish(self, array: np.ndarray, is_color: bool, file_name: str, format: str | None) -> np.ndarray:
        """Scale pixels of any type, (H, W) or RGB (H, W, C), and bring the channels into the model's form.

        Args:
            array: the stored pixels.
            is_color: whether the channels are colors, which share one range and may have alpha.
            file_name: for messages.
            format: see :meth:`__call__`.

        Raises:
            OSError, InputError: the pixels are not numbers, or the model has another number of channels.
        """
        num_channels = 1 if array.ndim == 2 else array.shape[2]
        expected = self.options.num_channels
        if is_color and num_channels in (2, 4) and expected != num_channels:
            array, num_channels = array[..., : num_channels - 1], num_channels - 1  # alpha
        if num_channels not in (1, expected) or num_channels != expected and expected != 3:
            raise self._wrong_channels(file_name, num_channels)
        if array.dtype.kind not in "biuf":
            raise OSError(f"its pixels are of type {array.dtype}, expected whole or decimal numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).any():
            raise OSError("it has no finite pixel: all are NaN or infinite")
        scaling = self.options.scaling
        if array.dtype != np.uint8:
            name = scaling if isinstance(scaling, str) else list(scaling)
            how = "by the 0.1 and 99.9 percentiles of each image" if scaling == "auto" else "by this key"
            message = f"Images of type {array.dtype}, such as {file_name}, are scaled {how} (INPUT.SCALING {name})"
            _log_once(str(array.dtype), message)
        array = scale_pixels(array, scaling, per_channel=not is_color)
        if array.ndim == 2:
            if format is None:
                return array
            array = array[..., None]
        if expected == 3 and array.shape[2] == 1 and format != "L":
            array = np.repeat(array, 3, axis=2)
        if format == "BGR" and array.shape[2] == 3:
            array = array[..., ::-1]
        return array

    def _wrong_channels(self, file_name: str, found: int) -> InputError:
        return InputError(
            f"Image {file_name} has {found} channel{'s' * (found != 1)}, and MODEL.PIXEL_MEAN has "
            f"{self.options.num_channels} values: expected one mean and one std per channel (INPUT.PAGES is "
            f"{self.options.pages}; channels reads each page as a channel)"
        )

    def _warn_of_pages(self, num_pages: int, file_name: str) -> None:
        if num_pages > 1:
            _log_once(
                "pages",
                f"{file_name} has {num_pages} pages, and only the first is used (INPUT.PAGES first; all are used by "
                "channels and max)",
                logging.WARNING,
            )

    def _oriented(self, array: np.ndarray, image: Image.Image) -> np.ndarray:
        """Apply the EXIF orientation of ``image`` to its pixels (H, W) or (H, W, C)."""
        return apply_orientation(array, image_orientation(image) if self.options.exif == "apply" else 1)

    def _read_png_16(self, file: IO[bytes], file_name: str) -> tuple[np.ndarray, bool]:
        """Read a 16-bit PNG with OpenCV, because Pillow reads those with colors as 8-bit images."""
        image = self._open(file, file_name)
        file.seek(0)
        array = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
        if array is None:
            raise OSError("the PNG is broken")
        if array.ndim == 3:
            order = [2, 1, 0, 3][: array.shape[2]]
            array = array[..., order]
        return self._oriented(array, image), array.ndim == 3

    def _read_tiff(self, file: IO[bytes], file_name: str) -> tuple[np.ndarray, bool]:
        """Read a TIFF with tifffile; return the pixels, (H, W) or (H, W, C), and whether channels are colors."""
        check_pages(file)
        with tifffile.TiffFile(file) as tiff:
            series = tiff.series[0]
            orientation = _tiff_orientation(tiff) if self.options.exif == "apply" else 1
            sizes = dict(zip(series.axes, series.shape))
            self._check_size(sizes.get("X", 1), sizes.get("Y", 1), file_name)
            num_pages = int(np.prod([size for axis, size in sizes.items() if axis not in "YXS"]))
            if self.options.pages == "first":
                self._warn_of_pages(num_pages, file_name)
                page = series.pages[0]
                array, axes = (page.asarray(), page.axes) if num_pages > 1 else (series.asarray(), series.axes)
            else:
                array, axes = series.asarray(), series.axes
        if "Y" not in axes or "X" not in axes:
            raise OSError(f"the TIFF has the axes {axes}, expected Y and X")
        is_color = "S" in axes
        order = [i for i, axis in enumerate(axes) if axis not in "YXS"]
        array = array.transpose([axes.index("Y"), axes.index("X"), *([axes.index("S")] if is_color else []), *order])
        array = apply_orientation(array, orientation)
        if is_color and not order:
            return array, True
        array = array.reshape(*array.shape[:2], -1)
        if is_color and self.options.pages == "max":
            array = array.reshape(*array.shape[:2], sizes["S"], -1).max(3)
            return array, True
        return self._combine(array)

    def _combine(self, array: np.ndarray) -> tuple[np.ndarray, bool]:
        """Combine pages (H, W, pages) as ``INPUT.PAGES`` says."""
        if self.options.pages == "max":
            array = array.max(2, keepdims=True)
        return (array[..., 0] if array.shape[2] == 1 else array), False

    def describe(self, file_name: str) -> ImageInfo:
        """Read the header of an image file.

        Raises:
            OSError, InputError: see :meth:`__call__`.
        """
        with _open_file(file_name) as file:
            return self._describe(file, file_name)

    def _describe(self, file: IO[bytes], file_name: str) -> ImageInfo:
        start = file.read(32)
        file.seek(0)
        image = self._open_with_pillow(file, file_name, start)
        if image is None:
            return self._describe_tiff(file, file_name)
        orientation = image_orientation(image)
        raw_width, raw_height = image.size
        if image.format == "TIFF" and orientation >= 5:
            raw_width, raw_height = raw_height, raw_width  # Pillow has turned it
        swapped = orientation >= 5 and self.options.exif == "apply"
        width, height = (raw_height, raw_width) if swapped else (raw_width, raw_height)
        bits = {"1": 1, "I": 32, "F": 32}.get(image.mode, 16 if image.mode.startswith("I;16") else 8)
        if start[:4] == b"\x89PNG" and start[24:25] == b"\x10":
            bits = 16
        num_channels = len([band for band in image.getbands() if band not in ("A", "a")])
        num_channels = 3 if image.mode in ("P", "PA") else num_channels
        num_pages = 1 if image.format in ("PNG", "JPEG") else getattr(image, "n_frames", 1)
        return ImageInfo(width, height, raw_width, raw_height, image.mode, bits, num_channels, num_pages, orientation)

    def _describe_tiff(self, file: IO[bytes], file_name: str) -> ImageInfo:
        check_pages(file)
        with tifffile.TiffFile(file) as tiff:
            series, orientation = tiff.series[0], _tiff_orientation(tiff)
            sizes, dtype = dict(zip(series.axes, series.shape)), series.dtype
            mode = f"{series.axes} {dtype}"
        num_pages = int(np.prod([size for axis, size in sizes.items() if axis not in "YXS"]))
        raw_width, raw_height = sizes.get("X", 1), sizes.get("Y", 1)
        self._check_size(raw_width, raw_height, file_name)
        swapped = orientation >= 5 and self.options.exif == "apply"
        width, height = (raw_height, raw_width) if swapped else (raw_width, raw_height)
        bits, samples = 8 * dtype.itemsize, sizes.get("S", 1)
        return ImageInfo(width, height, raw_width, raw_height, mode, bits, samples, num_pages, orientation)


def _needs_tifffile(image: Image.Image, options: ReadingOptions) -> bool:
    """Return whether Pillow would read a TIFF in another way than meant.

    It cuts colors of 16 bits to 8, drops channels, reads one page only, and always applies the orientation.
    """
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (1,))
    several_pages = getattr(image, "n_frames", 1) > 1 or "images=" in str(tags.get(_IMAGE_DESCRIPTION, ""))
    turned = options.exif == "ignore" and image_orientation(image) != 1
    more_channels = len(image.getbands()) < _num_samples(image) == options.num_channels
    return max(np.atleast_1d(bits)) > 8 or several_pages or turned or more_channels


def _num_samples(image: Image.Image) -> int:
    """Return the channels that a TIFF stores; Pillow drops those that it does not know."""
    return int(getattr(image, "tag_v2", {}).get(_SAMPLES_PER_PIXEL, 1))


def _tiff_orientation(tiff: tifffile.TiffFile) -> int:
    tag = tiff.pages[0].tags.get(ORIENTATION_TAG)
    return 1 if tag is None else valid_orientation(tag.value)


@contextlib.contextmanager
def _open_file(file_name: str) -> Iterator[IO[bytes]]:
    """Open an image file; whatever its readers raise in the block becomes an OSError that names it."""
    with PathManager.open(file_name, "rb") as file:
        try:
            yield file
        except InputError:
            raise
        except Exception as error:  # Pillow, OpenCV and tifffile raise many types of errors for broken files
            raise OSError(f"cannot read the image {file_name}: {error}") from error


def log_again() -> None:
    """Forget what was logged: a new run says again how its images are read."""
    _logged.clear()


def _log_once(kind: str, message: str, level: int = logging.INFO) -> None:
    """Log a message unless one of this kind was logged in this run."""
    if kind not in _logged:
        _logged.add(kind)
        logger.log(level, message)


@contextlib.contextmanager
def reading_with(reader: ImageReader) -> Iterator[None]:
    """Let Detectron2's mappers read images with ``reader`` while the block runs.

    Mappers call ``detection_utils.read_image``, and have no parameter for it, so the function is replaced.
    """
    original = utils.read_image
    utils.read_image = reader
    try:
        yield
    finally:
        utils.read_image = original
