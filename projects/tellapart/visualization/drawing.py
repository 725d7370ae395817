"""What the pictures are put together from: panels under captions in rows, scores as colours, frames, instances.

Pictures are uint8 BGR (H, W, 3), as OpenCV has them; places and boxes are (x, y) in a picture's own pixels.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.detection_utils import convert_image_to_rgb
from torch import Tensor

GAP = 8  # left, right and below of a panel, pixels
BAR = 26  # height of a caption
PAPER, INK = 250, (40, 40, 40)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
Color = tuple[int, int, int]


def write_rows(path: str | Path, *rows: list[np.ndarray]) -> None:
    """Writes the rows' pictures side by side, the rows one below the other, as one file; its folder is made.

    Raises:
        OSError: the file could not be written.
    """
    stacked = []
    for row in rows:
        high = max(len(panel) for panel in row)
        level = [np.pad(p, ((0, high - len(p)), (0, 0), (0, 0)), constant_values=PAPER) for p in row]
        stacked.append(np.hstack(level))
    wide = max(row.shape[1] for row in stacked)
    stacked = [np.pad(r, ((0, 0), (0, wide - r.shape[1]), (0, 0)), constant_values=PAPER) for r in stacked]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.vstack(stacked)):
        raise OSError(f"could not write {path}")


def picture_of(image: Tensor, input_format: str) -> np.ndarray:
    """A model's input, uint8 (3, H, W) in this format of Detectron2's, as a picture."""
    picture = convert_image_to_rgb(image.permute(1, 2, 0).cpu(), input_format)[..., ::-1]
    return np.ascontiguousarray(picture, np.uint8)


def captioned(picture: np.ndarray, caption: str, width: int = 0) -> np.ndarray:
    """The picture under a bar with the caption, with a margin, at least ``width`` wide without it."""
    narrow = max(0, width - picture.shape[1])
    picture = np.pad(picture.astype(np.uint8), ((0, 0), (0, narrow), (0, 0)), constant_values=PAPER)
    bar = np.full((BAR, picture.shape[1], 3), PAPER, np.uint8)
    cv2.putText(bar, caption, (2, BAR - 8), _FONT, 0.45, INK, 1, cv2.LINE_AA)
    return np.pad(np.vstack([bar, picture]), ((0, GAP), (GAP, GAP), (0, 0)), constant_values=PAPER)


def fitted(picture: np.ndarray, longest: int, enlarge_by: int = cv2.INTER_NEAREST) -> np.ndarray:
    """Enlarged (by this interpolation) or shrunk so that the longer side is ``longest``."""
    factor = longest / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    return cv2.resize(picture, size, interpolation=enlarge_by if factor > 1 else cv2.INTER_AREA)


def brightened(image: np.ndarray) -> tuple[np.ndarray, float]:
    """An image that is dark all over, as in fluorescence microscopy, made brighter; and by what factor."""
    gain = min(8.0, 230 / max(1.0, float(np.percentile(image, 99.5))))
    if gain < 1.5:
        return image, 1.0
    return np.clip(image * gain, 0, 255).astype(np.uint8), gain


def heat(scores: np.ndarray, limit: float) -> np.ndarray:
    """Scores (H, W) in -limit to limit as colours, blue to red."""
    level = np.clip((scores / limit + 1) * 127.5, 0, 255).astype(np.uint8)
    return cv2.applyColorMap(level, cv2.COLORMAP_JET)


def frame(picture: np.ndarray, box: Sequence[float], color: Color, thickness: int = 1) -> None:
    """Draws the outline of a box, XYXY."""
    x0, y0, x1, y1 = (round(v) for v in box)
    cv2.rectangle(picture, (x0, y0), (max(x0, x1 - 1), max(y0, y1 - 1)), color, thickness)


def palette(count: int) -> list[Color]:
    """Colours, neighbours in the list far apart in hue."""
    hues = [(0.02 + i * 0.618034) % 1 for i in range(count)]
    return [tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.9, 1.0))[::-1] for hue in hues]


def with_instances(
    picture: np.ndarray, masks: Sequence[np.ndarray], colors: Sequence[Color], labels: Sequence[str] = ()
) -> np.ndarray:
    """The picture made paler, with masks (h, w) of it at any size, each in its colour and with its label."""
    picture = picture // 2 + 48  # so that the colours stand out
    places = []
    for mask, color in zip(masks, colors):
        mask = cv2.resize(mask.astype(np.uint8) * 255, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 127
        if not mask.any():
            places.append(None)
            continue
        picture[mask] = (0.5 * picture[mask] + 0.5 * np.array(color)).astype(np.uint8)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, color, 2, cv2.LINE_AA)
        depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)
        row, col = np.unravel_index(depth.argmax(), depth.shape)  # the innermost point: inside even of a crescent
        places.append((int(col) - 1, int(row) - 1))
    for place, label in zip(places, labels):
        if place is not None:
            _write_label(picture, label, place)
    return picture


def _write_label(picture: np.ndarray, label: str, center: tuple[int, int]) -> None:
    """In white with a dark rim, centred on (x, y) but kept inside."""
    scale = 0.4
    (width, height), _ = cv2.getTextSize(label, _FONT, scale, 1)
    x = min(max(center[0] - width // 2, 1), max(1, picture.shape[1] - width - 1))
    y = min(max(center[1] + height // 2, height + 1), picture.shape[0] - 3)
    for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):  # a thicker stroke would be wider than the text in OpenCV 5
        cv2.putText(picture, label, (x + dx, y + dy), _FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(picture, label, (x, y), _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)
