"""Pictures of instances that were found as clusters of embeddings, beside the ground truth, in matching colors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .drawing import add_caption, darken, palette, resize_longest, write_rows

_PANEL_SIZE = 256  # longer side of an image, pixels
# Strong, pale and dark, so that colors also differ between the rows of a grid of objects.
_TONES = ((0.95, 1.0), (0.45, 1.0), (0.9, 0.65))


def write_cluster_pictures(path: Path, rows: list[tuple[np.ndarray, list[tuple[str, np.ndarray | None]]]]) -> None:
    """Write a PNG with one row per image.

    A predicted instance has the color of the ground-truth instance with which it shares most pixels, and no color is
    used twice in a panel. A correct prediction therefore looks like the ground truth, in whatever order its instances
    are.

    Args:
        path: of the PNG; its folder is created if it does not exist.
        rows: (image, panels) pairs. The image is uint8 BGR (H, W, 3). A panel is a caption and instance masks, bool
            (N, H, W), or None to show the image as it is. The first panel with masks is the ground truth.
    """
    drawn_rows = []
    for image, panels in rows:
        gt_masks = next(masks for _, masks in panels if masks is not None)
        drawn_rows.append([add_caption(_draw_masks(image, masks, gt_masks), caption) for caption, masks in panels])
    write_rows(path, *drawn_rows)


def match_colors(masks: np.ndarray, gt_masks: np.ndarray) -> list[int]:
    """Choose a color index for each instance, without repetition.

    Pairs with most shared pixels are matched first.

    Args:
        masks: predicted, bool (N, H, W).
        gt_masks: bool (M, H, W).

    Returns:
        Per predicted instance, the index of the ground-truth instance with which it shares most pixels, or an index of
        at least M if it shares no pixels with those that are left.
    """
    num_shared = np.tensordot(masks.astype(np.float32), gt_masks.astype(np.float32), ((1, 2), (1, 2)))
    color_index = np.full(len(masks), -1)
    while num_shared.size and num_shared.max() > 0:
        predicted, gt = np.unravel_index(num_shared.argmax(), num_shared.shape)
        color_index[predicted] = gt
        num_shared[predicted], num_shared[:, gt] = 0, 0
    unmatched = np.flatnonzero(color_index < 0)
    color_index[unmatched] = len(gt_masks) + np.arange(len(unmatched))
    return color_index.tolist()


def _draw_masks(image: np.ndarray, masks: np.ndarray | None, gt_masks: np.ndarray) -> np.ndarray:
    """Return the image with instances in color and all other pixels dark; without masks, the image as it is."""
    picture = image
    if masks is not None:
        picture = darken(image)
        color_index = match_colors(masks, gt_masks)
        colors = palette(max(color_index, default=-1) + 1, _TONES)
        for mask, index in zip(masks, color_index):
            picture[mask] = colors[index]
    return resize_longest(picture, _PANEL_SIZE)
