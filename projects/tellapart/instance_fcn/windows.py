"""InstanceFCN's sliding windows: their positions, their boxes, and which instance each one is trained on."""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor

from ..devices import to_device


def centered_windows(
    level: int, image_index: int, valid_size: tuple[int, int], window_size: int, stride: int = 1,
    device: torch.device | None = None,
) -> Tensor:  # fmt: skip
    """Place windows on one feature map of one image, centered on its feature pixels.

    Args:
        level: pyramid level of the map, written to column 0.
        image_index: index of the image in the batch, written to column 1.
        valid_size: (height, width) of the part of the map that shows the image; the rest is padding.
        window_size: m, in feature pixels. For an even m, the center is the pixel left of and above the middle.
        stride: distance between neighboring windows, in feature pixels.
        device: where the window indices are needed.

    Returns:
        Window indices, int64 (W, 6), row by row: level, image index, row and column of the upper left feature pixel,
        valid height, valid width.
    """
    half = (window_size - 1) // 2
    rows, columns = (torch.arange(0, length, stride, device=device) - half for length in valid_size)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    level, image_index, height, width = (torch.full_like(row, value) for value in (level, image_index, *valid_size))
    return torch.stack((level, image_index, row, column, height, width), 2).flatten(0, 1)


def windows_to_boxes(window_indices: Tensor, strides: list[int], window_size: int) -> Boxes:
    """Convert window indices (W, 6) to W boxes XYXY in image pixels, which may extend beyond the image.

    Args:
        window_indices: as returned by :func:`centered_windows`.
        strides: stride of each level, in image pixels.
        window_size: m, in feature pixels.
    """
    stride = to_device(strides, window_indices.device)[window_indices[:, 0]][:, None]
    corner = window_indices[:, 2:4].flip(1) * stride
    return Boxes(torch.cat((corner, corner + window_size * stride), 1).float())


def label_by_iou(gt_boxes: Boxes, window_boxes: Boxes, thresholds: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Label windows by their box IoU with the ground-truth boxes.

    Args:
        gt_boxes: G boxes.
        window_boxes: W boxes.
        thresholds: (low, high). A window is positive if its highest IoU is at least ``high``, negative if it is below
            ``low``, and ignored in between.

    Returns:
        ``gt_index`` int64 (W,), the instance with the highest IoU, and ``labels`` int64 (W,): 1 positive, 0 negative,
        -1 ignored. Without instances, all indices and labels are 0.
    """
    iou, gt_index = _best_gt(pairwise_iou(gt_boxes, window_boxes))
    labels = (iou >= thresholds[1]).to(torch.int64)
    labels[(iou >= thresholds[0]) & (iou < thresholds[1])] = -1
    return gt_index, labels


def label_by_center_and_size(
    gt_boxes: Boxes, window_boxes: Boxes, center_tolerance: float, size_band: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Label windows by DeepMask's rule: positive if an instance is centered in the window and of the right size.

    Args:
        gt_boxes: G boxes.
        window_boxes: W boxes, square.
        center_tolerance: largest offset between the two centers along each axis, as a fraction of the window size.
        size_band: smallest and largest length of the ground-truth box's longer side, as fractions of the window size.

    Returns:
        ``gt_index`` and ``labels`` as in :func:`label_by_iou`. A positive window's instance is the one whose center is
        nearest. Windows that are not positive, but would be with both tolerances doubled, are ignored.
    """
    window_side = (window_boxes.tensor[:, 2] - window_boxes.tensor[:, 0])[None]
    offset = (gt_boxes.get_centers()[:, None] - window_boxes.get_centers()[None]).abs().max(2).values / window_side
    longer_side = (gt_boxes.tensor[:, 2:] - gt_boxes.tensor[:, :2]).max(1).values[:, None] / window_side
    low, high = size_band

    def fits(slack: float) -> Tensor:
        centered = offset <= slack * center_tolerance
        return centered & (longer_side >= low / slack) & (longer_side <= high * slack)

    # positive where it fits, and larger for a nearer center
    fit_quality = fits(1.0) * (2 - offset / window_side.clamp(min=1))
    best_quality, gt_index = _best_gt(fit_quality.float())
    labels = (best_quality > 0).to(torch.int64)
    almost = fits(2.0).any(0) if len(gt_boxes) else torch.zeros_like(labels, dtype=torch.bool)
    labels[almost & (labels == 0)] = -1
    return gt_index, labels


def _best_gt(quality: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest value in each column of ``quality`` (G, W) and its row, or zeros if there are no rows."""
    if not len(quality):
        zeros = quality.new_zeros(quality.shape[1])
        return zeros, zeros.to(torch.int64)
    return quality.max(0)
