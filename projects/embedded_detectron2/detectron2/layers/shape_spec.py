"""What a module says of the tensors it gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """Channels, size and stride (image pixels a feature pixel) of a feature map; None where unknown."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
