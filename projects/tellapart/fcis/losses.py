"""FCIS's training: targets, the three losses per region, and the selection of hard regions (section 2.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from detectron2.structures import Instances
from fvcore.nn import smooth_l1_loss
from torch import Tensor
from torch.nn import functional as F

from ..masks import mask_targets


class RegionLosses(NamedTuple):
    """Losses of R regions, each (R,). For background regions ``mask_loss`` and ``box_loss`` are zero."""

    class_loss: Tensor
    mask_loss: Tensor
    box_loss: Tensor


def region_losses(
    class_logits: Tensor, mask_logits: Tensor, deltas: Tensor, gt_classes: Tensor, foreground_index: Tensor,
    gt_masks: Tensor, gt_deltas: Tensor, smooth_l1_beta: float,
) -> RegionLosses:  # fmt: skip
    """Compute the losses of R regions, of which P are foreground.

    Args:
        class_logits: (R, C + 1), background last.
        mask_logits: (P, m, m), the inside score minus the outside score of the ground-truth category of each foreground
            region. Their sigmoid equals the paper's softmax over the two sides.
        deltas: (R, 4), predicted box deltas.
        gt_classes: int64 (R,), C for background.
        foreground_index: int64 (P,), the regions that have a mask target and a box target.
        gt_masks: bool (P, m, m).
        gt_deltas: (P, 4).
        smooth_l1_beta: 1 / sigma^2 in the paper's notation.

    Returns:
        ``class_loss`` is the cross-entropy, ``mask_loss`` the mean of the binary cross-entropy over the m * m cells,
        ``box_loss`` the sum of the smooth L1 loss over the four deltas.
    """
    class_loss = F.cross_entropy(class_logits, gt_classes, reduction="none")
    cell_loss = F.binary_cross_entropy_with_logits(mask_logits, gt_masks.to(mask_logits.dtype), reduction="none")
    delta_loss = smooth_l1_loss(deltas[foreground_index], gt_deltas, smooth_l1_beta, reduction="none")
    zeros = torch.zeros_like(class_loss)
    return RegionLosses(
        class_loss,
        zeros.index_add(0, foreground_index, cell_loss.mean((1, 2))),
        zeros.index_add(0, foreground_index, delta_loss.sum(1)),
    )


def select_hard_regions(losses: Tensor, counts: list[int], max_per_image: int) -> list[Tensor]:
    """Select the regions of highest loss in each image (online hard example mining, Shrivastava et al., 2016).

    Args:
        losses: (R,), the regions of all images one after the other.
        counts: number of regions of each image.
        max_per_image: largest number of regions to select per image.

    Returns:
        Per image, int64 (S,): the selected regions, ascending, from 0 in each image.
    """
    return [
        image_losses.topk(min(max_per_image, len(image_losses))).indices.sort().values
        for image_losses in losses.split(counts)
    ]


class RegionTargets(NamedTuple):
    """Training targets of R regions, of which P are foreground.

    Attributes:
        foreground_index: int64 (P,), ascending.
        gt_masks: bool (P, m, m), the ground-truth mask of each foreground region on the region's grid.
        gt_boxes: (P, 4) XYXY in image pixels, the ground-truth box of each foreground region.
    """

    foreground_index: Tensor
    gt_masks: Tensor
    gt_boxes: Tensor

    def select(self, selected: Tensor) -> RegionTargets:
        """Return the targets of the regions ``selected``, int64 (S,), ascending."""
        position = torch.searchsorted(selected, self.foreground_index)
        is_selected = selected[position.clamp(max=len(selected) - 1)] == self.foreground_index
        kept = is_selected.nonzero().flatten()
        return RegionTargets(position[kept], self.gt_masks[kept], self.gt_boxes[kept])


def region_targets(proposals: list[Instances], num_classes: int, resolution: int, threshold: float) -> RegionTargets:
    """Compute the training targets of labeled proposals, the images one after the other.

    Args:
        proposals: one ``Instances`` per image with ``proposal_boxes`` and ``gt_classes`` (``num_classes`` for
            background), and with ``gt_boxes`` and ``gt_masks`` if any of them is foreground.
        num_classes: C.
        resolution: m.
        threshold: coverage from which a cell is foreground, see :func:`mask_targets`.
    """
    device = proposals[0].gt_classes.device
    foreground_index = [torch.zeros(0, dtype=torch.int64, device=device)]
    gt_masks = [torch.zeros((0, resolution, resolution), dtype=torch.bool, device=device)]
    gt_boxes = [torch.zeros((0, 4), device=device)]
    first = 0
    for p in proposals:
        # One index for all fields: a mask as index would make the CPU wait for the GPU at each of them.
        index = ((p.gt_classes >= 0) & (p.gt_classes < num_classes)).nonzero().flatten()
        if len(index):
            foreground_index.append(first + index)
            masks, boxes = p.gt_masks[index], p.proposal_boxes.tensor[index]
            gt_masks.append(mask_targets(masks, boxes, resolution, threshold))
            gt_boxes.append(p.gt_boxes.tensor[index])
        first += len(p)
    return RegionTargets(torch.cat(foreground_index), torch.cat(gt_masks), torch.cat(gt_boxes))
