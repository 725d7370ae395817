"""InstanceFCN's sliding windows: where they stand, and which hold an instance."""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor


def centred_windows(level: int, image: int, size: tuple[int, int], resolution: int, stride: int = 1) -> Tensor:
    """The windows centred on the feature pixels of one map of one image.

    Args:
        level, image: what to write into the first two columns.
        size: (height, width) of the part of the map that shows the image; the rest is the batch's padding.
        resolution: m, feature pixels; for an even m the centre is the pixel left of and above the middle.
        stride: feature pixels between neighbours.

    Returns:
        int64 (W, 6): level, image, row and column of the upper left feature pixel, ``size``; row by row.
    """
    half = (resolution - 1) // 2
    rows, columns = (torch.arange(0, length, stride) - half for length in size)
    grid = torch.cartesian_prod(rows, columns).view(-1, 2)
    head, tail = (torch.tensor([pair]).expand(len(grid), 2) for pair in ((level, image), size))
    return torch.cat((head, grid, tail), 1)


def window_boxes(windows: Tensor, strides: list[int], resolution: int) -> Boxes:
    """Windows (W, 6) as boxes in image pixels, (W, 4) XYXY; they may reach out of the image."""
    scale = torch.tensor(strides, device=windows.device)[windows[:, 0]][:, None]
    corner = windows[:, [3, 2]] * scale
    return Boxes(torch.cat((corner, corner + resolution * scale), 1).float())


def label_by_iou(gt_boxes: Boxes, boxes: Boxes, thresholds: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Positive windows fit an instance's box.

    Args:
        gt_boxes: G boxes.
        boxes: W windows.
        thresholds: box IoU: from the second on a window is positive, below the first negative, between ignored.

    Returns:
        Index of the best instance, int64 (W,), and label, int64 (W,): 1 positive, 0 negative, -1 ignored.
    """
    best, index = _best(pairwise_iou(gt_boxes, boxes))
    labels = (best >= thresholds[1]).to(torch.int64)
    labels[(best >= thresholds[0]) & (best < thresholds[1])] = -1
    return index, labels


def label_by_place_and_size(
    gt_boxes: Boxes, boxes: Boxes, centre_tolerance: float, size_band: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """DeepMask's rule: an instance roughly centred in the window and of the right size.

    Args:
        gt_boxes, boxes: as in :func:`label_by_iou`.
        centre_tolerance: how far the centres may be apart, in each axis, as a share of the window's side.
        size_band: smallest and largest longer side of the instance's box, as a share of the window's side.

    Returns:
        As :func:`label_by_iou`. Windows within twice the tolerances are ignored, not negative.
    """
    side = (boxes.tensor[:, 2] - boxes.tensor[:, 0])[None]
    distance = (gt_boxes.get_centers()[:, None] - boxes.get_centers()[None]).abs().max(2).values / side
    longer = (gt_boxes.tensor[:, 2:] - gt_boxes.tensor[:, :2]).max(1).values[:, None] / side
    low, high = size_band

    def fits(slack: float) -> Tensor:
        return (distance <= slack * centre_tolerance) & (longer >= low / slack) & (longer <= high * slack)

    near, index = _best((fits(1.0) * (2 - distance / side.clamp(min=1))).float())
    labels = (near > 0).to(torch.int64)
    around = fits(2.0).any(0) if len(gt_boxes) else torch.zeros_like(labels, dtype=torch.bool)
    labels[around & (labels == 0)] = -1
    return index, labels


def _best(quality: Tensor) -> tuple[Tensor, Tensor]:
    """Highest of each column of (G, W), and its row; zeros where there is no row."""
    if not len(quality):
        zeros = quality.new_zeros(quality.shape[1])
        return zeros, zeros.to(torch.int64)
    return quality.max(0)
