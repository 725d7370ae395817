"""The anchors of the FCIS release."""

import tellapart  # noqa: F401
from tellapart.fcis import WholeSideAnchorGenerator

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_anchor_generator


def sides(anchors):
    return (anchors[:, 2:] - anchors[:, :2]).tolist()


def test_sides_are_those_of_the_release_times_the_scale():
    cfg = get_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.update(NAME="WholeSideAnchorGenerator", SIZES=[[64, 128, 256, 512]], OFFSET=0.5)
    generator = build_anchor_generator(cfg, [ShapeSpec(channels=1, stride=16)])
    (anchors,) = generator([torch.zeros(1, 1, 2, 3)])
    base = ([23, 12], [16, 16], [11, 22])  # ratios (height / width) 0.5, 1, 2
    expected = [[width * scale, height * scale] for scale in (4, 8, 16, 32) for width, height in base]
    assert sides(anchors.tensor[:12]) == expected
    centers = anchors.get_centers()[::12]
    assert centers.tolist() == [[8, 8], [24, 8], [40, 8], [8, 24], [24, 24], [40, 24]]


@pytest.mark.parametrize(("ratio", "expected"), [(0.5, [11, 6]), (1.0, [8, 8]), (2.0, [6, 12]), (0.25, [16, 4])])
def test_each_level_has_its_own_base(ratio, expected):
    generator = WholeSideAnchorGenerator(sizes=[[8], [48]], aspect_ratios=[[ratio]], strides=[8, 16])
    first, second = generator.cell_anchors
    assert sides(first) == [expected]
    width = round(16 / ratio**0.5)
    assert sides(second) == [[3 * width, 3 * round(width * ratio)]]
    assert torch.equal(second[:, :2], -second[:, 2:])
