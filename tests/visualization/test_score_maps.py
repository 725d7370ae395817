"""The picture of the score maps, and the command-line tools around FCIS."""

from __future__ import annotations

import json
import math
from pathlib import Path

from tellapart.errors import InputError
from tellapart.visualization.score_maps import draw_fcis_region

import cv2
import numpy as np
import pytest
import torch
from test_fcis import VARIANTS, annotated, config, model

ROOT = Path(__file__).resolve().parents[2]


def count(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((picture == color).all(-1).sum())


@pytest.mark.parametrize("variant", VARIANTS)
def test_picture_of_a_region(variant, tmp_path):
    """Draws for every grid, level and sampling; the region's frame is where it was asked for."""
    fcis = model(variant).eval()
    path = tmp_path / "deeper" / "maps.png"
    box = (20.0, 10.0, 70.0, 60.0)
    draw_fcis_region(path, fcis, annotated(97, 111, [[4, 4, 52, 40]]), box, ["disc", "square", "triangle"])
    picture = cv2.imread(str(path))
    k = fcis.roi_heads.grid_size
    assert count(picture, (80, 200, 60)) > 0, "no cell is marked"
    tile = min(96, 7 * 96 // k)
    assert picture.shape[0] > k * tile * 97 / 111 + 320 * 97 / 111
    # the red frame of the first panel: left edge at 20 px of an image that is 320 wide and not 111
    bottom = picture[-400:, :330]
    columns = (bottom == (60, 60, 230)).all(-1).sum(0)
    assert abs(int(np.flatnonzero(columns > 100)[0]) - (8 + 20 * 320 / 111)) <= 2
    draw_fcis_region(path, fcis, annotated(97, 111, []))  # the best candidate, numbers for names
    assert path.stat().st_size > 0


def test_picture_without_a_proposal(tmp_path):
    fcis = model(**{"MODEL.RPN.POST_NMS_TOPK_TEST": 0}).eval()
    with pytest.raises(InputError, match="give a box"):
        draw_fcis_region(tmp_path / "a.png", fcis, annotated(64, 80, []))


def test_picture_of_a_box_beside_the_image(tmp_path):
    fcis, inputs = model("FPN").eval(), annotated(64, 80, [])
    for box in ((10, 10, 10, 30), (40, 10, 20, 30), (90, 10, 95, 30), (math.nan, 10, 20, 30)):
        with pytest.raises(InputError, match="has no area in the image, at the test size 80 x 64 pixels"):
            draw_fcis_region(tmp_path / "a.png", fcis, inputs, box)
    for name, box in (("whole.png", (0, 0, 80, 64)), ("larger.png", (-1e9, -1e9, 1e9, 1e9))):  # what reaches out is cut
        draw_fcis_region(tmp_path / name, fcis, inputs, box)
    assert (tmp_path / "whole.png").read_bytes() == (tmp_path / "larger.png").read_bytes()


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
    assert printed.endswith("MODEL.META_ARCHITECTURE is GeneralizedRCNN, wanted FCIS or InstanceFCN")


def test_subset(run_tool, tmp_path):
    source, output = tmp_path / "all.json", tmp_path / "some.json"
    coco = {
        "images": [{"id": i} for i in (5, 3, 9)],
        "annotations": [{"id": i, "image_id": image} for i, image in enumerate((9, 5, 3, 5))],
        "categories": [{"id": 1, "name": "a"}],
    }
    source.write_text(json.dumps(coco))
    assert "2 images, 3 annotations" in run_tool("subset_coco.py", str(source), "2", str(output))
    part = json.loads(output.read_text())
    assert [image["id"] for image in part["images"]] == [5, 3] and part["categories"] == coco["categories"]
    assert {a["image_id"] for a in part["annotations"]} == {5, 3}
    output.unlink()
    for number in ("4", "0"):
        assert run_tool("subset_coco.py", str(source), number, str(output)).endswith(f"has 3 images, wanted {number}")
    source.write_text("[1]")
    assert "is no COCO JSON" in run_tool("subset_coco.py", str(source), "1", str(output))
    assert not output.exists()
