"""The pictures of score maps: FCIS regions, InstanceFCN windows, and their tool."""

from __future__ import annotations

import math
from pathlib import Path

from tellapart.errors import InputError
from tellapart.visualization.score_maps import draw_fcis_region, draw_instance_fcn

import cv2
import numpy as np
import pytest
import torch
from fcis.test_fcis import VARIANTS, config, model
from instance_fcn.test_instance_fcn import model as instance_fcn_model
from synthetic_images import annotated

ROOT = Path(__file__).resolve().parents[2]


def count(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((picture == color).all(-1).sum())


@pytest.mark.parametrize("variant", VARIANTS)
def test_picture_of_a_region(variant, tmp_path):
    """It can be drawn for every grid size, level and sampling, and the frame is at the given box."""
    fcis = model(variant).eval()
    path = tmp_path / "deeper" / "maps.png"
    box = (20.0, 10.0, 70.0, 60.0)
    draw_fcis_region(path, fcis, annotated(97, 111, [[4, 4, 52, 40]]), box, ["disc", "square", "triangle"])
    picture = cv2.imread(str(path))
    k = fcis.roi_heads.grid_size
    assert count(picture, (80, 200, 60)) > 0, "no cell is marked"
    tile = min(96, 7 * 96 // k)
    assert picture.shape[0] > k * tile * 97 / 111 + 320 * 97 / 111
    # the left edge of the red frame: at x = 20 of an image that is enlarged from 111 to 320 pixels
    bottom = picture[-400:, :330]
    columns = (bottom == (60, 60, 230)).all(-1).sum(0)
    assert abs(int(np.flatnonzero(columns > 100)[0]) - (8 + 20 * 320 / 111)) <= 2
    draw_fcis_region(path, fcis, annotated(97, 111, []))  # the best candidate, categories by number
    assert path.stat().st_size > 0


def test_without_proposals_a_box_is_needed(tmp_path):
    fcis = model(**{"MODEL.RPN.POST_NMS_TOPK_TEST": 0}).eval()
    with pytest.raises(InputError, match="give a box"):
        draw_fcis_region(tmp_path / "a.png", fcis, annotated(64, 80, []))


def test_boxes_outside_the_image_are_refused(tmp_path):
    fcis, inputs = model("FPN").eval(), annotated(64, 80, [])
    for box in ((10, 10, 10, 30), (40, 10, 20, 30), (90, 10, 95, 30), (math.nan, 10, 20, 30)):
        with pytest.raises(InputError, match="has no area in the image, at the test size 80 x 64 pixels"):
            draw_fcis_region(tmp_path / "a.png", fcis, inputs, box)
    for name, box in (("whole.png", (0, 0, 80, 64)), ("larger.png", (-1e9, -1e9, 1e9, 1e9))):  # clipped to the image
        draw_fcis_region(tmp_path / name, fcis, inputs, box)
    assert (tmp_path / "whole.png").read_bytes() == (tmp_path / "larger.png").read_bytes()


@pytest.mark.parametrize("variant", ["single", "k1", "pyramid", "scales"])
def test_picture_of_a_window(variant, tmp_path):
    net = instance_fcn_model(variant).eval()
    draw_instance_fcn(tmp_path / "deeper" / "window.png", net, annotated(97, 111, []))
    picture = cv2.imread(str(tmp_path / "deeper" / "window.png"))
    k = net.proposal_generator.mask_head.grid_size
    marked = (picture == (80, 200, 60)).all(-1)
    assert marked.any() and picture.shape[1] >= 4 * 320
    if k > 1:  # each map has its own cell
        assert marked[:, : picture.shape[1] // 3].any(0).sum() > 2 * k


def test_draw_score_maps_command(run_tool, tmp_path):
    weights, image, output = (tmp_path / name for name in ("model.pth", "image.png", "maps.png"))
    torch.save({"model": model().state_dict()}, weights)
    (tmp_path / "config.yaml").write_text(config().dump())
    cv2.imwrite(str(image), np.zeros((90, 120, 3), np.uint8))
    arguments = ("--config-file", str(tmp_path / "config.yaml"), "--image", str(image), "--output", str(output))
    box = ("--box", "10", "10", "60", "50")
    assert f"wrote {output}" in run_tool("draw_score_maps.py", *arguments, *box, "MODEL.WEIGHTS", str(weights))
    assert cv2.imread(str(output)) is not None
    image.write_text("no picture")
    printed = run_tool("draw_score_maps.py", *arguments, "MODEL.WEIGHTS", str(weights))
    assert printed.startswith(f"exit: cannot read image {image}")
    other = ROOT / "configs" / "quick" / "mask_rcnn" / "mask_rcnn_R_18_FPN_shapes.yaml"
    printed = run_tool("draw_score_maps.py", "--config-file", str(other), "--image", str(image))
    assert printed.endswith("MODEL.META_ARCHITECTURE is GeneralizedRCNN, expected FCIS or InstanceFCN")
