"""InstanceFCN's windows: assembling compared with a loop, local coherence, both label rules."""

from __future__ import annotations

from tellapart.instance_fcn.windows import centered_windows, label_by_center_and_size, label_by_iou, windows_to_boxes
from tellapart.position_sensitive import to_table, window_cell_indices

import pytest
import torch
from detectron2.structures import Boxes


def assemble_windows(
    maps: list[torch.Tensor], window_indices: torch.Tensor, k: int, m: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy the cells of windows from score maps, (W, m, m); also return which cells are in the image."""
    cell_indices, in_image = window_cell_indices(window_indices, [(x.shape[0], *x.shape[2:]) for x in maps], k, m)
    return to_table(maps, k)[cell_indices, 0], in_image


@pytest.mark.parametrize("k", [1, 3, 5, 7])
@pytest.mark.parametrize("m", [4, 21])
def test_assembling_equals_a_loop_over_all_windows(k, m):
    """Two levels of odd sizes and two images, the second smaller than the map.

    Windows cross all borders, and m is not always a multiple of k.
    """
    g = torch.Generator().manual_seed(k)
    maps = [torch.randn((2, k * k, *size), generator=g) for size in ((13, 9), (5, 7))]
    valid_sizes = {(0, 0): (13, 9), (0, 1): (11, 6), (1, 0): (5, 7), (1, 1): (1, 7)}
    windows = torch.cat([centered_windows(level, image, size, m) for (level, image), size in valid_sizes.items()])
    assert len(windows) == 13 * 9 + 11 * 6 + 5 * 7 + 1 * 7
    grids, in_image = assemble_windows(maps, windows, k, m)
    for (level, image, top, left, *_), grid, valid in zip(windows.tolist(), grids, in_image):
        height, width = valid_sizes[level, image]
        for i in range(0, m, 3 if m > 4 else 1):
            for j in range(m):
                y, x = top + i, left + j
                assert valid[i, j] == (0 <= y < height and 0 <= x < width)
                if valid[i, j]:
                    assert grid[i, j] == maps[level][image, (i * k // m) * k + j * k // m, y, x]


@pytest.mark.parametrize("k, m", [(3, 21), (5, 21), (7, 9)])
def test_local_coherence(k, m):
    """Windows shifted by one pixel agree on all shared pixels that stay in the same bin (section 3.2 of the paper)."""
    maps = [torch.randn((1, k * k, 30, 31), generator=torch.Generator().manual_seed(m))]
    windows = torch.tensor([[0, 0, *corner, 30, 31] for corner in ((4, 3), (4, 4), (5, 3))])
    (first, right, below), in_image = assemble_windows(maps, windows, k, m)
    assert in_image.all()
    bins = torch.arange(m) * k // m
    same_bin = bins[1:] == bins[:-1]
    assert same_bin.sum() == m - k  # all but one pixel of each bin
    assert torch.equal(first[:, 1:][:, same_bin], right[:, :-1][:, same_bin])
    assert torch.equal(first[1:][same_bin], below[:-1][same_bin])
    assert not torch.equal(first[:, 1:][:, ~same_bin], right[:, :-1][:, ~same_bin]) or k == 1


def test_assembling_has_gradients_and_accepts_zero_windows():
    maps = [torch.randn(1, 9, 5, 6, requires_grad=True)]
    grids, in_image = assemble_windows(maps, torch.zeros((0, 6), dtype=torch.int64), 3, 7)
    assert grids.shape == in_image.shape == (0, 7, 7)
    grids, in_image = assemble_windows(maps, torch.tensor([[0, 0, -2, -2, 5, 6]]), 3, 7)
    (grids * in_image).sum().backward()
    assert maps[0].grad.sum() == in_image.sum() == 25
    assert (maps[0].grad.sum(1) <= 1).all()


@pytest.mark.parametrize("m, first", [(1, 0), (4, -1), (5, -2), (21, -10)])
def test_centered_windows(m, first):
    windows = centered_windows(1, 2, (3, 5), m, stride=2)
    assert windows.tolist() == [[1, 2, first + y, first + x, 3, 5] for y in (0, 2) for x in (0, 2, 4)]


def test_windows_to_boxes():
    boxes = windows_to_boxes(torch.tensor([[0, 0, 2, 3, 9, 9], [1, 0, -1, 0, 9, 9]]), [4, 8], 5)
    assert boxes.tensor.tolist() == [[12, 8, 32, 28], [0, -8, 40, 32]]


def test_label_by_iou():
    windows = Boxes(torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 3], [20, 20, 30, 30], [1, 0, 11, 10]]))
    gt_boxes = Boxes(torch.tensor([[50.0, 50, 60, 60], [0, 0, 10, 10]]))
    gt_index, labels = label_by_iou(gt_boxes, windows, (0.31, 0.5))
    assert labels.tolist() == [1, 1, 0, 0, 1]
    assert gt_index[[0, 1, 4]].tolist() == [1, 1, 1]
    assert label_by_iou(gt_boxes, windows, (0.2, 0.5))[1].tolist() == [1, 1, -1, 0, 1]
    assert label_by_iou(gt_boxes[:0], windows, (0.3, 0.5))[1].tolist() == [0] * 5


def test_label_by_center_and_size():
    """A window of 100 px, a tolerance of 10 px and a band of 50 to 80 px; boxes of side s with centers d px apart."""
    window = Boxes(torch.tensor([[0.0, 0, 100, 100]]))

    def label(d: float, s: float) -> int:
        center = torch.tensor([50.0 + d, 50.0])
        box = torch.cat((center - s / 2, center + torch.tensor([s / 2, s / 8])))[None]
        box[:, 1] = 50 - s / 8  # wide and flat: the longer side counts
        return label_by_center_and_size(Boxes(box), window, 0.1, (0.5, 0.8))[1].item()

    assert [label(0, 60), label(9, 60), label(0, 51), label(0, 79)] == [1, 1, 1, 1]
    assert [label(15, 60), label(0, 30), label(0, 150)] == [-1, -1, -1], "within twice the tolerances"
    assert [label(25, 60), label(0, 20), label(0, 170)] == [0, 0, 0]
    no_boxes = Boxes(torch.zeros((0, 4)))
    assert label_by_center_and_size(no_boxes, window, 0.1, (0.5, 0.8))[1].tolist() == [0]


def test_the_instance_with_the_nearest_center_is_chosen():
    window = Boxes(torch.tensor([[0.0, 0, 100, 100]]))
    gt_boxes = Boxes(torch.tensor([[28.0, 20, 88, 80], [22, 20, 82, 80]]))  # centers 8 and 2 px apart
    gt_index, labels = label_by_center_and_size(gt_boxes, window, 0.1, (0.5, 0.8))
    assert (gt_index.item(), labels.item()) == (1, 1)
