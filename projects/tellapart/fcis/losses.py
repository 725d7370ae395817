"""FCIS's training: targets, the three losses of each region, the hardest regions (section 2.3, "training")."""

from __future__ import annotations

from typing import NamedTuple

import torch
from detectron2.structures import Instances
from fvcore.nn import smooth_l1_loss
from torch import Tensor
from torch.nn import functional as F

from ..masks import mask_targets


class RegionLosses(NamedTuple):
    """Losses of R regions, each (R,): classification, segmentation and box; the last two 0 for background."""

    cls: Tensor
    seg: Tensor
    box: Tensor


def region_losses(
    class_logits: Tensor, side_logits: Tensor, deltas: Tensor, gt_classes: Tensor, foreground: Tensor,
    gt_masks: Tensor, gt_deltas: Tensor, smooth_l1_beta: float,
) -> RegionLosses:  # fmt: skip
    """The losses of each of R regions, P of them foreground.

    Args:
        class_logits: (R, C + 1), background last.
        side_logits: (P, m, m), inside minus outside score at the true category of the foreground regions. The two-way
            softmax of the paper is a sigmoid of it.
        deltas: (R, 4), predicted.
        gt_classes: int64 (R,), background C.
        foreground: bool (R,), the P regions that have a mask and a box to learn.
        gt_masks: bool (P, m, m).
        gt_deltas: (P, 4).
        smooth_l1_beta: 1 / sigma^2.

    Returns:
        ``seg`` is a mean over the m * m cells, ``box`` a sum over the four numbers.
    """
    cls = F.cross_entropy(class_logits, gt_classes, reduction="none")
    seg = F.binary_cross_entropy_with_logits(side_logits, gt_masks.to(side_logits.dtype), reduction="none")
    distance = smooth_l1_loss(deltas[foreground], gt_deltas, smooth_l1_beta, reduction="none")
    index = foreground.nonzero().flatten()
    zeros = torch.zeros_like(cls)
    return RegionLosses(
        cls, zeros.index_add(0, index, seg.mean((1, 2))), zeros.index_add(0, index, distance.sum(1))
    )


def hardest(losses: Tensor, counts: list[int], keep: int) -> Tensor:
    """Online hard example mining (Shrivastava et al., 2016): the regions of highest loss in each image.

    Args:
        losses: (R,), regions of all images in a row.
        counts: regions of each image.
        keep: at most so many an image.

    Returns:
        bool (R,).
    """
    chosen = torch.zeros_like(losses, dtype=torch.bool)
    start = 0
    for count in counts:
        best = losses[start : start + count].topk(min(keep, count)).indices
        chosen[start + best] = True
        start += count
    return chosen


class RegionTargets(NamedTuple):
    """What R regions are to learn: ``foreground``, bool (R,), P of them; of these the ground truth's ``masks``, bool
    (P, m, m), and ``boxes``, (P, 4)."""

    foreground: Tensor
    masks: Tensor
    boxes: Tensor

    def of(self, chosen: Tensor) -> RegionTargets:
        """Those of some regions, ``chosen`` bool (R,)."""
        kept = chosen[self.foreground]
        return RegionTargets(self.foreground[chosen], self.masks[kept], self.boxes[kept])


def region_targets(
    proposals: list[Instances], num_classes: int, resolution: int, threshold: float
) -> RegionTargets:
    """What labelled proposals are to learn, the images in a row.

    Args:
        proposals: one an image: ``proposal_boxes``, ``gt_classes`` (background ``num_classes``); ``gt_boxes`` and
            ``gt_masks`` where any is foreground.
        num_classes: C.
        resolution, threshold: see :func:`mask_targets`.
    """
    foreground = [(p.gt_classes >= 0) & (p.gt_classes < num_classes) for p in proposals]
    device = proposals[0].gt_classes.device
    masks = [torch.zeros((0, resolution, resolution), dtype=torch.bool, device=device)]
    boxes = [torch.zeros((0, 4), device=device)]
    for image, chosen in zip(proposals, foreground):
        if chosen.any():
            image = image[chosen]
            masks.append(mask_targets(image.gt_masks, image.proposal_boxes.tensor, resolution, threshold))
            boxes.append(image.gt_boxes.tensor)
    return RegionTargets(torch.cat(foreground), torch.cat(masks), torch.cat(boxes))
