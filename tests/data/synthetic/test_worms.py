"""The synthetic worms: masks of whole bodies, whose union is the image, with the statistics of BBBC010."""

import re
from collections import defaultdict

import tellapart  # noqa: F401
from tellapart.data.prepared import binary_mask
from tellapart.data.synthetic.worms import HEIGHT, WIDTH, draw_worms

import cv2
import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def drawn():
    return [draw_worms(7, i) for i in range(100)]


def test_image_is_the_union_of_whole_overlapping_bodies(drawn):
    overlap = 0
    for image, objects in drawn:
        masks = np.stack([mask for _, mask in objects])
        assert image.shape == (HEIGHT, WIDTH) and image.dtype == np.uint8 and set(np.unique(image)) == {0, 255}
        np.testing.assert_array_equal(masks.any(axis=0), image > 0)
        assert {category for category, _ in objects} == {0} and 11 <= len(objects) <= 15
        overlap += (masks.sum(axis=0) > 1).any()
        frame = masks.copy()
        frame[:, 1:-1, 1:-1] = False
        assert not frame.any()  # none is cut off
    assert len(drawn) / 2 < overlap


def test_a_body_is_one_piece(drawn):
    """A mask is complete where another worm crosses it."""
    pieces = [cv2.connectedComponents(mask.astype(np.uint8))[0] - 1 for _, objects in drawn for _, mask in objects]
    assert set(pieces) == {1}


def statistics(images):
    """{name: one value per worm, or per image} of a list of images' masks, bool (worms, HEIGHT, WIDTH) each."""
    found = defaultdict(list)
    for masks in images:
        layers = masks.sum(axis=0)
        found["worms an image"].append(len(masks))
        found["connected parts an image"].append(cv2.connectedComponents((layers > 0).astype(np.uint8))[0] - 1)
        found["overlap, % of foreground"].append(100 * (layers > 1).sum() / (layers > 0).sum())
        found["overlapping worms, %"].append(100 * np.mean([layers[mask].max() > 1 for mask in masks]))
        straight = []
        for mask in masks:
            contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            outline = max(contours, key=cv2.contourArea)
            half, area = cv2.arcLength(outline, True) / 2, np.count_nonzero(mask)
            length = half / 2 + np.sqrt(max(half**2 / 4 - area, 0))  # of the ribbon with this area and perimeter
            sides = sorted(cv2.minAreaRect(outline)[1])
            straight.append(cv2.minEnclosingCircle(outline)[1] * 2 / length)
            found["area, pixels"].append(area)
            found["length, pixels"].append(length)
            found["mean width, pixels"].append(area / length)
            found["bow (box's short : long side)"].append(sides[0] / sides[1])
            found["end to end : length"].append(straight[-1])
        found["straight worms, % of an image"].append(100 * np.mean(np.array(straight) > 0.95))
    return found


def bbbc010(folder, step):
    """The masks of every `step`-th well of BBBC010."""
    wells = defaultdict(list)
    for path in sorted((folder / "bbbc010" / "BBBC010_v1_foreground_eachworm").glob("*.png")):
        wells[re.match(r"[A-E]\d\d", path.name)[0]].append(path)
    for well in sorted(wells)[::step]:
        yield np.stack([binary_mask(np.asarray(Image.open(path))) for path in wells[well]])


PERCENTILES = [10, 30, 70, 90]  # no median: half of the images show straight worms, half curled ones
# how far the made worms' percentiles may be from the real ones
SLACK = {
    "worms an image": 1,
    "connected parts an image": 1.5,
    "overlap, % of foreground": 1.2,
    "overlapping worms, %": 13,
    "area, pixels": 60,
    "length, pixels": 6,
    "mean width, pixels": 0.5,
    "bow (box's short : long side)": 0.12,
    "end to end : length": 0.06,
    "straight worms, % of an image": 20,
}


def test_statistics_are_those_of_bbbc010(drawn, shared_data):
    """``pytest -s`` prints the table."""
    real = statistics(bbbc010(shared_data, 2))
    made = statistics(np.stack([mask for _, mask in objects]) for _, objects in drawn)
    print(f"\n{f'percentiles {PERCENTILES}':31}{'BBBC010':>32}{'worms_*':>32}")
    far = []
    for name, slack in SLACK.items():
        expected, actual = (np.percentile(values[name], PERCENTILES) for values in (real, made))
        print(f"{name:31}" + "".join(f"{value:8.2f}" for value in [*expected, *actual]))
        if np.abs(expected - actual).max() > slack:
            far.append(name)
    assert not far
