"""The synthetic worms: masks of whole bodies, whose union is the image, with the statistics of BBBC010."""

import re
from collections import defaultdict

import tellapart  # noqa: F401
from tellapart.data.label_images import read_labels
from tellapart.data.synthetic.worms import HEIGHT, WIDTH, draw_worms

import cv2
import numpy as np
import pytest


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
        yield np.stack([read_labels(path) > 0 for path in wells[well]])


PERCENTILES = [10, 30, 70, 90]  # no median: half of the images show straight worms, half curled ones
# Percentiles of every second well of BBBC010, and how far those of synthetic worms may be from them.
BBBC010 = {
    "worms an image": ([12.0, 13.7, 15.0, 15.0], 1),
    "connected parts an image": ([8.0, 10.0, 11.0, 12.0], 1.5),
    "overlap, % of foreground": ([0.05196, 0.5547, 1.185, 2.922], 1.2),
    "overlapping worms, %": ([13.33, 21.0, 38.92, 57.26], 13),
    "area, pixels": ([820.3, 934.0, 1080.0, 1189.0], 60),
    "length, pixels": ([104.4, 116.6, 128.1, 134.8], 6),
    "mean width, pixels": ([7.2, 7.859, 8.781, 9.499], 0.5),
    "bow (box's short : long side)": ([0.07861, 0.09115, 0.2465, 0.4784], 0.12),
    "end to end : length": ([0.7365, 0.8992, 0.9814, 1.004], 0.06),
    "straight worms, % of an image": ([20.0, 35.0, 92.31, 100.0], 20),
}


def test_statistics_are_those_of_bbbc010(drawn):
    """``pytest -s`` prints the table."""
    synthetic = statistics(np.stack([mask for _, mask in objects]) for _, objects in drawn)
    print(f"\n{f'percentiles {PERCENTILES}':31}{'BBBC010':>32}{'worms_*':>32}")
    far = []
    for name, (expected, tolerance) in BBBC010.items():
        actual = np.percentile(synthetic[name], PERCENTILES)
        print(f"{name:31}" + "".join(f"{value:8.2f}" for value in [*expected, *actual]))
        if np.abs(expected - actual).max() > tolerance:
            far.append(name)
    assert not far


def test_table_of_bbbc010_is_that_of_the_real_images(shared_data):
    real = statistics(bbbc010(shared_data, 2))
    for name, (percentiles, _) in BBBC010.items():
        np.testing.assert_allclose(np.percentile(real[name], PERCENTILES), percentiles, rtol=1e-3, err_msg=name)
