"""InstanceFCN's windows: copying against a loop, local coherence, both rules that label them."""

from __future__ import annotations

from tellapart.instance_fcn.windows import centred_windows, label_by_iou, label_by_place_and_size, window_boxes
from tellapart.position_sensitive import to_table, window_cell_indices

import pytest
import torch
from detectron2.structures import Boxes


def copied(maps: list[torch.Tensor], windows: torch.Tensor, k: int, m: int) -> tuple[torch.Tensor, torch.Tensor]:
    indices, inside = window_cell_indices(windows, [(x.shape[0], *x.shape[2:]) for x in maps], k, m)
    return to_table(maps, k)[indices, 0], inside


@pytest.mark.parametrize("k", [1, 3, 5, 7])
@pytest.mark.parametrize("m", [4, 21])
def test_copying_equals_a_loop_for_every_window(k, m):
    """Two levels of odd sizes, two images, the second smaller than the map; windows reach over all borders, bins do not
    divide evenly."""
    g = torch.Generator().manual_seed(k)
    maps = [torch.randn((2, k * k, *size), generator=g) for size in ((13, 9), (5, 7))]
    shown = {(0, 0): (13, 9), (0, 1): (11, 6), (1, 0): (5, 7), (1, 1): (1, 7)}
    windows = torch.cat([centred_windows(level, image, size, m) for (level, image), size in shown.items()])
    assert len(windows) == 13 * 9 + 11 * 6 + 5 * 7 + 1 * 7
    values, inside = copied(maps, windows, k, m)
    for (level, image, top, left, *_), grid, on in zip(windows.tolist(), values, inside):
        height, width = shown[level, image]
        for i in range(0, m, 3 if m > 4 else 1):
            for j in range(m):
                y, x = top + i, left + j
                assert on[i, j] == (0 <= y < height and 0 <= x < width)
                if on[i, j]:
                    assert grid[i, j] == maps[level][image, (i * k // m) * k + j * k // m, y, x]


@pytest.mark.parametrize("k, m", [(3, 21), (5, 21), (7, 9)])
def test_local_coherence(k, m):
    """Windows shifted by a pixel agree on every shared pixel that stays in its bin (the paper's section 3.2)."""
    maps = [torch.randn((1, k * k, 30, 31), generator=torch.Generator().manual_seed(m))]
    windows = torch.tensor([[0, 0, *corner, 30, 31] for corner in ((4, 3), (4, 4), (5, 3))])
    (here, right, below), inside = copied(maps, windows, k, m)
    assert inside.all()
    bins = torch.arange(m) * k // m
    same = bins[1:] == bins[:-1]
    assert same.sum() == m - k  # all but one pixel of each bin
    assert torch.equal(here[:, 1:][:, same], right[:, :-1][:, same])
    assert torch.equal(here[1:][same], below[:-1][same])
    assert not torch.equal(here[:, 1:][:, ~same], right[:, :-1][:, ~same]) or k == 1


def test_copying_has_gradients_and_takes_no_windows():
    maps = [torch.randn(1, 9, 5, 6, requires_grad=True)]
    values, inside = copied(maps, torch.zeros((0, 6), dtype=torch.int64), 3, 7)
    assert values.shape == inside.shape == (0, 7, 7)
    values, inside = copied(maps, torch.tensor([[0, 0, -2, -2, 5, 6]]), 3, 7)
    (values * inside).sum().backward()
    assert maps[0].grad.sum() == inside.sum() == 25
    assert (maps[0].grad.sum(1) <= 1).all()


@pytest.mark.parametrize("m, first", [(1, 0), (4, -1), (5, -2), (21, -10)])
def test_centred_windows(m, first):
    windows = centred_windows(1, 2, (3, 5), m, stride=2)
    assert windows.tolist() == [[1, 2, first + y, first + x, 3, 5] for y in (0, 2) for x in (0, 2, 4)]


def test_window_boxes():
    boxes = window_boxes(torch.tensor([[0, 0, 2, 3, 9, 9], [1, 0, -1, 0, 9, 9]]), [4, 8], 5)
    assert boxes.tensor.tolist() == [[12, 8, 32, 28], [0, -8, 40, 32]]


def test_label_by_iou():
    windows = Boxes(torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 3], [20, 20, 30, 30], [1, 0, 11, 10]]))
    truth = Boxes(torch.tensor([[50.0, 50, 60, 60], [0, 0, 10, 10]]))
    index, labels = label_by_iou(truth, windows, (0.31, 0.5))
    assert labels.tolist() == [1, 1, 0, 0, 1]
    assert index[[0, 1, 4]].tolist() == [1, 1, 1]
    assert label_by_iou(truth, windows, (0.2, 0.5))[1].tolist() == [1, 1, -1, 0, 1]
    assert label_by_iou(truth[:0], windows, (0.3, 0.5))[1].tolist() == [0] * 5


def test_label_by_place_and_size():
    """A window of 100 px; instances of side s whose centre is d px off, tolerance 10 px, band 50 to 80 px."""
    window = Boxes(torch.tensor([[0.0, 0, 100, 100]]))

    def label(d: float, s: float) -> int:
        centre = torch.tensor([50.0 + d, 50.0])
        box = torch.cat((centre - s / 2, centre + torch.tensor([s / 2, s / 8])))[None]
        box[:, 1] = 50 - s / 8  # wide and flat: the longer side counts
        return label_by_place_and_size(Boxes(box), window, 0.1, (0.5, 0.8))[1].item()

    assert [label(0, 60), label(9, 60), label(0, 51), label(0, 79)] == [1, 1, 1, 1]
    assert [label(15, 60), label(0, 30), label(0, 150)] == [-1, -1, -1], "within twice the tolerances"
    assert [label(25, 60), label(0, 20), label(0, 170)] == [0, 0, 0]
    none = Boxes(torch.zeros((0, 4)))
    assert label_by_place_and_size(none, window, 0.1, (0.5, 0.8))[1].tolist() == [0]


def test_the_nearest_instance_is_the_one():
    window = Boxes(torch.tensor([[0.0, 0, 100, 100]]))
    truth = Boxes(torch.tensor([[28.0, 20, 88, 80], [22, 20, 82, 80]]))  # centres 8 and 2 px off
    index, labels = label_by_place_and_size(truth, window, 0.1, (0.5, 0.8))
    assert (index.item(), labels.item()) == (1, 1)
