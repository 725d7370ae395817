"""The drawing kit: arrows."""

from __future__ import annotations

from tellapart.visualization.drawing import draw_arrows

import numpy as np
import pytest


def test_arrows_connect_start_and_end():
    picture = np.zeros((60, 80, 3), np.uint8)
    draw_arrows(picture, np.array([[10.5, 50.5]]), np.array([[70.5, 20.5]]), (0, 0, 255))
    red = picture[..., 2]
    assert red[50, 10] and red[20, 70] == 255 and red[35, 40]
    ys, xs = red.nonzero()
    assert xs.min() >= 9 and xs.max() <= 73 and ys.min() >= 17 and ys.max() <= 51
    # the head and the dot are at the end
    assert (red[:, 62:] > 0).sum() > 2 * (red[:, :19] > 0).sum()


@pytest.mark.parametrize("end, last", [((1000, 30), (79, 30)), ((-4e9, 30), (0, 30)), ((40, 900), (40, 59)),
                                       ((40, -70), (40, 0)), ((240, -170), (69, 0))])  # fmt: skip
def test_clipped_arrows_keep_their_direction(end, last):
    picture = np.zeros((60, 80, 3), np.uint8)
    draw_arrows(picture, np.array([[40.0, 30.0]]), np.array([end], float), (0, 0, 255))
    ys, xs = picture[..., 2].nonzero()
    step = np.array(last) - (40, 30)
    along = ((xs - 40) * step[0] + (ys - 30) * step[1]) / (step @ step)
    across = np.abs((xs - 40) * step[1] - (ys - 30) * step[0]) / np.hypot(*step)
    assert -0.1 < along.min() < 0.05 and along.max() > 0.95 and across.max() <= 5
    unclipped = np.zeros_like(picture)
    draw_arrows(unclipped, np.array([[40.0, 30.0]]), np.array([last], float), (0, 0, 255))
    assert unclipped.astype(bool).sum() > picture.astype(bool).sum()  # only this one has a dot
