"""The keys of a config that say how image files are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from ..errors import InputError

SCALINGS = ("auto", "percentile", "full_range", "none")
PAGES = ("first", "channels", "max")
EXIF = ("apply", "ignore")


@dataclass(frozen=True)
class ReadingOptions:
    """How images are read.

    Attributes:
        scaling: ``INPUT.SCALING``: "auto", "percentile", "full_range", "none", or (low, high).
        pages: ``INPUT.PAGES``: "first", "channels" or "max".
        exif: ``INPUT.EXIF``: "apply" or "ignore".
        max_pixels: ``INPUT.MAX_PIXELS``.
        num_channels: of the model's input, the length of ``MODEL.PIXEL_MEAN``.
    """

    scaling: str | tuple[float, float] = "auto"
    pages: str = "first"
    exif: str = "apply"
    max_pixels: int = 178_956_970
    num_channels: int = 3

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> ReadingOptions:
        """Return the options of a config.

        Raises:
            InputError: a key has another value than its comment in ``tellapart/config.py`` allows.
        """
        scaling: Any = cfg.INPUT.SCALING
        if scaling is None:
            scaling = "auto"
        elif isinstance(scaling, (list, tuple)):
            if len(scaling) != 2 or not all(type(v) in (int, float) for v in scaling) or not scaling[0] < scaling[1]:
                raise InputError(f"INPUT.SCALING is {list(scaling)}, expected [low, high] with low < high")
            scaling = float(scaling[0]), float(scaling[1])
        elif scaling not in SCALINGS:
            raise InputError(f"INPUT.SCALING is {scaling!r}, expected one of {', '.join(SCALINGS)}, or [low, high]")
        for key, known in (("PAGES", PAGES), ("EXIF", EXIF)):
            if cfg.INPUT[key] not in known:
                raise InputError(f"INPUT.{key} is {cfg.INPUT[key]!r}, expected {' or '.join(known)}")
        if cfg.INPUT.MAX_PIXELS < 1:
            raise InputError(f"INPUT.MAX_PIXELS is {cfg.INPUT.MAX_PIXELS}, expected a number of pixels above 0")
        num_channels = len(cfg.MODEL.PIXEL_MEAN)
        return cls(scaling, cfg.INPUT.PAGES, cfg.INPUT.EXIF, cfg.INPUT.MAX_PIXELS, num_channels)
