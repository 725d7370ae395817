"""Pictures of clusters beside the ground truth: which instances have the same color."""

from __future__ import annotations

from tellapart.visualization.cluster_pictures import match_colors, write_cluster_pictures
from tellapart.visualization.drawing import CAPTION_HEIGHT, MARGIN

import cv2
import numpy as np

PANEL = 256


def letter_masks(rows: list[str]) -> np.ndarray:
    """Masks, bool (N, H, W), of the letters a to d in an image of letters."""
    pixels = np.array([list(row) for row in rows])
    return np.array([pixels == letter for letter in "abcd" if (pixels == letter).any()])


def test_colors_are_matched_by_shared_pixels():
    """No color is used twice; an instance that shares no pixels has a color of its own."""
    gt = letter_masks(["aaabbb", "aaabbb", "......"])
    # shared pixels: a has 1 with the first; b has 5 with the first and 1 with the second; c has 4 with the second
    masks = letter_masks(["bbbbcc", "bba.cc", "dd...."])
    assert match_colors(masks, gt) == [2, 0, 1, 3]
    assert match_colors(masks[::-1], gt) == [2, 1, 0, 3]
    assert match_colors(masks[:0], gt) == [] and match_colors(masks[:2], gt[:0]) == [0, 1]


def test_correct_predictions_look_like_the_ground_truth(tmp_path):
    """The order of the instances does not matter; pixels without an instance show the darkened image."""
    gt = letter_masks(["aabb", "aabb", "....", "cc.."])
    image = np.full((4, 4, 3), 200, np.uint8)
    rows = [("image", None), ("ground truth", gt), ("same, reordered", gt[[2, 0, 1]]), ("none", gt[:0])]
    write_cluster_pictures(tmp_path / "new" / "a.png", [(image, rows), (image, rows[1:2])])
    picture = cv2.imread(str(tmp_path / "new" / "a.png"))
    panels = [
        picture[CAPTION_HEIGHT : CAPTION_HEIGHT + PANEL, x : x + PANEL]
        for x in range(MARGIN, picture.shape[1], PANEL + 2 * MARGIN)
    ]
    assert len(panels) == 4 and picture.shape[0] == 2 * (CAPTION_HEIGHT + PANEL + MARGIN)
    assert (panels[0] == 200).all() and (panels[3] == 50).all() and np.array_equal(panels[1], panels[2])
    cells = panels[1][32::64, 32::64]
    assert len({tuple(cells[y, x]) for y, x in ((0, 0), (0, 2), (3, 0), (2, 0))}) == 4
    assert (cells[2] == 50).all() and np.array_equal(cells[1, 0], cells[0, 1])
