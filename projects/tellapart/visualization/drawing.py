"""The drawing kit of all pictures: captioned panels in rows, colors, heat maps, boxes, arrows, instance masks.

Pictures are uint8 BGR (H, W, 3), as in OpenCV. Points (x, y) and boxes are in pixels of the picture: its upper left
corner is (0, 0), and the center of its first pixel is (0.5, 0.5).
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.detection_utils import convert_image_to_rgb
from torch import Tensor

MARGIN = 8  # left of, right of and below a panel, pixels
CAPTION_HEIGHT = 26  # pixels
BACKGROUND = 250  # gray value around the panels
WHITE = (255, 255, 255)
STRONG = ((0.9, 1.0),)  # the (saturation, value) of strong colors, for palette
_TEXT_COLOR = (40, 40, 40)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
Color = tuple[int, int, int]

# ------------------------------------------------------------------------------------------------------ layout


def write_rows(path: str | Path, *rows: list[np.ndarray]) -> None:
    """Write one picture file: the panels of a row side by side, the rows below one another.

    Args:
        path: of the file; its folder is created if it does not exist.
        *rows: the panels of each row, of any sizes.

    Raises:
        OSError: the file cannot be written.
    """
    stacked = []
    for row in rows:
        height = max(len(panel) for panel in row)
        padded = [np.pad(p, ((0, height - len(p)), (0, 0), (0, 0)), constant_values=BACKGROUND) for p in row]
        stacked.append(np.hstack(padded))
    width = max(row.shape[1] for row in stacked)
    stacked = [np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=BACKGROUND) for r in stacked]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.vstack(stacked)):
        raise OSError(f"cannot write picture {path}: OpenCV does not say why; check the folder and the file extension")


def add_caption(picture: np.ndarray, caption: str, min_width: int = 0) -> np.ndarray:
    """Return a panel: the picture below its caption, with margins, and at least ``min_width`` wide without these."""
    missing = max(0, min_width - picture.shape[1])
    picture = np.pad(picture.astype(np.uint8), ((0, 0), (0, missing), (0, 0)), constant_values=BACKGROUND)
    bar = np.full((CAPTION_HEIGHT, picture.shape[1], 3), BACKGROUND, np.uint8)
    cv2.putText(bar, caption, (2, CAPTION_HEIGHT - 8), _FONT, 0.45, _TEXT_COLOR, 1, cv2.LINE_AA)
    return np.pad(np.vstack([bar, picture]), ((0, MARGIN), (MARGIN, MARGIN), (0, 0)), constant_values=BACKGROUND)


# ---------------------------------------------------------------------------------------------- whole pictures


def input_to_picture(image: Tensor, input_format: str) -> np.ndarray:
    """Convert a model input, uint8 (3, H, W) in a format of ``cfg.INPUT.FORMAT``, to a picture."""
    picture = convert_image_to_rgb(image.permute(1, 2, 0).cpu(), input_format)[..., ::-1]
    return np.ascontiguousarray(picture, np.uint8)


def resize_longest(picture: np.ndarray, longest_side: int, enlarge_by: int = cv2.INTER_NEAREST) -> np.ndarray:
    """Resize to a longer side of ``longest_side`` pixels; ``enlarge_by`` is the interpolation for enlarging."""
    factor = longest_side / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    return cv2.resize(picture, size, interpolation=enlarge_by if factor > 1 else cv2.INTER_AREA)


def brighten(picture: np.ndarray) -> tuple[np.ndarray, float]:
    """Brighten a picture that is dark everywhere, such as a fluorescence image, and return it with the factor used."""
    gain = min(8.0, 230 / max(1.0, float(np.percentile(picture, 99.5))))
    if gain < 1.5:
        return picture, 1.0
    return np.clip(picture * gain, 0, 255).astype(np.uint8), gain


def darken(picture: np.ndarray) -> np.ndarray:
    """Return the picture at a quarter of its brightness, so that colored pixels stand out."""
    return picture // 4


# ------------------------------------------------------------------------------------------------------ colors


def palette(num_colors: int, tones: Sequence[tuple[float, float]] = STRONG) -> list[Color]:
    """Return distinct BGR colors; the hues of neighbors in the list are far apart.

    Args:
        num_colors: length of the list.
        tones: (saturation, value) pairs from 0 to 1, used in turn.
    """
    colors = []
    for i in range(num_colors):
        hue = (0.02 + i * 0.618034) % 1  # steps by the golden ratio
        rgb = colorsys.hsv_to_rgb(hue, *tones[i % len(tones)])
        colors.append(tuple(int(255 * channel) for channel in reversed(rgb)))
    return colors


def heatmap(values: np.ndarray, limit: float) -> np.ndarray:
    """Color values (H, W) from blue at ``-limit`` to red at ``limit``."""
    level = np.clip((values / limit + 1) * 127.5, 0, 255).astype(np.uint8)
    return cv2.applyColorMap(level, cv2.COLORMAP_JET)


# ----------------------------------------------------------------------------------------- marks on a picture


def pixel_at(point: np.ndarray) -> tuple[int, int]:
    """Return the pixel (x, y) that contains a point, clipped to a range that OpenCV can handle."""
    x, y = np.floor(point).clip(-9999, 9999)
    return int(x), int(y)


def draw_box(picture: np.ndarray, box: Sequence[float], color: Color, thickness: int = 1) -> None:
    """Draw the outline of a box XYXY into the picture."""
    x0, y0, x1, y1 = (round(v) for v in box)
    cv2.rectangle(picture, (x0, y0), (max(x0, x1 - 1), max(y0, y1 - 1)), color, thickness)


def draw_arrows(picture: np.ndarray, starts: np.ndarray, ends: np.ndarray, color: Color) -> None:
    """Draw arrows into the picture, each with a dot at its end.

    An arrow that leaves the picture is cut at the border. It keeps its direction and has no dot.

    Args:
        picture: changed in place.
        starts, ends: float (P, 2) points.
        color: of all arrows.
    """
    height, width = picture.shape[:2]
    border = np.array([width - 1, height - 1])
    for start, end in zip(starts, ends):
        step = end - start
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(step > 0, (border - start) / step, np.where(step < 0, -start / step, np.inf))
        share = min(1.0, float(reach.min()))
        tip = start + max(0.0, share) * step
        length = float(np.hypot(*(tip - start)))
        points = [pixel_at(start), pixel_at(tip)]
        cv2.arrowedLine(picture, *points, color, 1, cv2.LINE_AA, tipLength=min(0.35, 5 / max(length, 1e-6)))
        if share == 1:
            cv2.circle(picture, points[1], 2, color, -1, cv2.LINE_AA)


def blend_mask(picture: np.ndarray, mask: np.ndarray, color: Color, opacity: float) -> None:
    """Blend a color into the picture where ``mask``, bool (H, W), is True."""
    picture[mask] = ((1 - opacity) * picture[mask] + opacity * np.array(color)).astype(np.uint8)


def draw_instances(
    picture: np.ndarray, masks: Sequence[np.ndarray], colors: Sequence[Color], labels: Sequence[str] = ()
) -> np.ndarray:
    """Return a pale copy of the picture with instance masks and labels.

    Args:
        picture: not changed.
        masks: of the whole picture, bool or 0 and 1, (h, w) in any resolution.
        colors: one per mask.
        labels: one per mask, or none at all.
    """
    picture = picture // 2 + 48  # so that the colors stand out
    label_points = []
    for mask, color in zip(masks, colors):
        mask = cv2.resize(mask.astype(np.uint8) * 255, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 127
        if not mask.any():
            label_points.append(None)
            continue
        blend_mask(picture, mask, color, 0.5)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, color, 2, cv2.LINE_AA)
        # the point farthest from the outline, which is in the mask even if it has the shape of a crescent
        distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)
        row, column = np.unravel_index(distance.argmax(), distance.shape)
        label_points.append((int(column) - 1, int(row) - 1))
    for point, label in zip(label_points, labels):
        if point is not None:
            _write_label(picture, label, point)
    return picture


def _write_label(picture: np.ndarray, label: str, center: tuple[int, int]) -> None:
    """Write text in white with a dark outline, centered on (x, y) but moved so that it is in the picture.

    A picture too low for it stays without.
    """
    scale = 0.4
    (width, height), _ = cv2.getTextSize(label, _FONT, scale, 1)
    if height + 4 > picture.shape[0] or picture.shape[1] < 4:
        return
    x = min(max(center[0] - width // 2, 1), max(1, picture.shape[1] - width - 1))
    y = min(max(center[1] + height // 2, height + 1), picture.shape[0] - 3)
    for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):  # OpenCV 5 widens text that is drawn with a thicker stroke
        cv2.putText(picture, label, (x + dx, y + dy), _FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(picture, label, (x, y), _FONT, scale, WHITE, 1, cv2.LINE_AA)
