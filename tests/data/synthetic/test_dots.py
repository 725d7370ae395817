"""The dots are identical, separate and complete; on the regular grid their surroundings are equal."""

import tellapart  # noqa: F401
from tellapart.data.synthetic.dots import DOT, DOTS, PITCHES, RADIUS, SIZE, STRIDE, draw_dots

import numpy as np
import pytest

WIDTH = 2 * RADIUS + 1
NUM_IMAGES = 60


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "jittered"])
def drawn(request):
    return [draw_dots(4, i, request.param) for i in range(NUM_IMAGES)]


@pytest.fixture(scope="module")
def grids():
    """Return the upper left corners (row, column) of the dots of each image on a regular grid."""
    return [corners(draw_dots(4, i)[1]) for i in range(NUM_IMAGES)]


def corners(objects):
    return np.array([np.argwhere(mask).min(axis=0) for _, mask in objects])


def test_image_is_the_union_of_identical_complete_dots(drawn):
    assert DOT.shape == (WIDTH, WIDTH) and DOT[RADIUS].all() and DOT[:, RADIUS].all()
    for image, objects in drawn:
        assert image.shape == (SIZE, SIZE) and image.dtype == np.uint8 and set(np.unique(image)) == {0, 255}
        masks = np.stack([mask for _, mask in objects])
        np.testing.assert_array_equal(masks.any(axis=0), image > 0)
        assert {category for category, _ in objects} == {0}
        for mask, (top, left) in zip(masks, corners(objects)):
            np.testing.assert_array_equal(mask[top : top + WIDTH, left : left + WIDTH], DOT > 0)
            assert mask.sum() == np.count_nonzero(DOT)  # nothing elsewhere, nothing cut off


def test_dots_never_touch(drawn):
    for _, objects in drawn:
        at = corners(objects)
        apart = np.abs(at[:, None] - at[None]).max(axis=2) + SIZE * np.eye(len(at), dtype=int)
        assert apart.min() > WIDTH


def test_grid_is_regular_and_covers_the_image(grids):
    for at in grids:
        for axis in (0, 1):
            places = np.unique(at[:, axis])
            steps = set(np.diff(places).tolist())
            assert len(steps) == 1 and steps < set(PITCHES)
            pitch = steps.pop()
            assert pitch % STRIDE == 0
            assert 0 <= places[0] < pitch  # one more before the first or after the last would be cut
            assert places[-1] + WIDTH <= SIZE < places[-1] + pitch + WIDTH
        assert len(at) == len(np.unique(at[:, 0])) * len(np.unique(at[:, 1]))


def test_neighbors_see_the_same(grids):
    """The content of a receptive field of 35 pixels (ResNet's res2) inside the image does not depend on the dot."""
    compared = 0
    for i, at in enumerate(grids):
        image, middle = draw_dots(4, i)[0], at + RADIUS
        inner = middle[((middle >= 17) & (middle < SIZE - 17)).all(axis=1)]
        # the margin where a dot was left out is seen by outer dots: take those with neighbors all around
        inner = [p for p in inner if all((middle == p + d).all(axis=1).any() for d in around(middle))]
        views = [image[y - 17 : y + 18, x - 17 : x + 18] for y, x in inner]
        for view in views[1:]:
            np.testing.assert_array_equal(view, views[0])
        compared += len(views) > 1
    assert compared > NUM_IMAGES / 2


def around(middle):
    pitch = [np.diff(np.unique(middle[:, axis]))[0] for axis in (0, 1)]
    return [np.array([a, b]) * pitch for a in (-1, 0, 1) for b in (-1, 0, 1)]


def test_grids_vary_and_seeds_of_other_parity_share_none(grids):
    def kinds(grids):
        return {tuple(map(tuple, at)) for at in grids}

    assert len(kinds(grids)) > 0.9 * NUM_IMAGES
    assert len({len(at) for at in grids}) > 5
    other = [corners(draw_dots(5, i)[1]) for i in range(NUM_IMAGES)]
    parity = [{int((at[0] // STRIDE).sum() % 2) for at in some} for some in (grids, other)]
    assert parity == [{0}, {1}]
    assert len({seed % 2 for seed, _ in DOTS.splits.values()}) == 2


def test_jitter_moves_every_dot_anew():
    for i in range(5):
        at = corners(draw_dots(4, i, jittered=True)[1])
        assert len(np.unique(at[:, 0])) > len(np.unique(corners(draw_dots(4, i)[1])[:, 0]))
