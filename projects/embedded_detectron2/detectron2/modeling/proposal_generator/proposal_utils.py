"""Choosing proposals among a network's predictions, and adding the ground truth to them."""

from __future__ import annotations

import math

import torch

from detectron2.layers import batched_nms, cat
from detectron2.structures import Boxes, Instances

_GT_LOGIT = math.log((1.0 - 1e-10) / 1e-10)  # of an objectness of nearly 1


def find_top_rpn_proposals(
    proposals: list[torch.Tensor], pred_objectness_logits: list[torch.Tensor], image_sizes: list[tuple[int, int]],
    nms_thresh: float, pre_nms_topk: int, post_nms_topk: int, min_box_size: float, training: bool,
) -> list[Instances]:  # fmt: skip
    """The best boxes of each image.

    Args:
        proposals: one tensor a level, (N, Hi * Wi * A, 4) XYXY pixels; they are clipped to the image.
        pred_objectness_logits: one a level, (N, Hi * Wi * A).
        image_sizes: (height, width) of each of the N images.
        nms_thresh: boxes that overlap a better one of their level by a larger IoU are dropped.
        pre_nms_topk, post_nms_topk: boxes kept before that per level, and after it per image.
        min_box_size: boxes with a side not longer than this, in pixels, are dropped.
        training: whether infinite or NaN predictions raise FloatingPointError; otherwise they are dropped.

    Returns:
        ``Instances`` with ``proposal_boxes`` and ``objectness_logits``, best first.
    """
    boxes, scores, levels = [], [], []
    for level, (level_boxes, level_scores) in enumerate(zip(proposals, pred_objectness_logits)):
        top, index = level_scores.topk(min(pre_nms_topk, level_scores.shape[1]), dim=1)
        boxes.append(level_boxes.gather(1, index[..., None].expand(-1, -1, 4)))
        scores.append(top)
        levels.append(torch.full_like(index[0], level))
    levels = cat(levels)
    results = []
    for image_boxes, logits, image_size in zip(cat(boxes, dim=1), cat(scores, dim=1), image_sizes):
        finite = image_boxes.isfinite().all(dim=1) & logits.isfinite()
        if training and not finite.all():
            raise FloatingPointError("Predicted boxes or scores contain Inf/NaN. Training has diverged.")
        found = Instances(image_size, proposal_boxes=Boxes(image_boxes), objectness_logits=logits, level=levels)[finite]
        found.proposal_boxes.clip(image_size)
        found = found[found.proposal_boxes.nonempty(threshold=min_box_size)]
        keep = batched_nms(found.proposal_boxes.tensor, found.objectness_logits, found.level, nms_thresh)
        found.remove("level")
        results.append(found[keep[:post_nms_topk]])
    return results


def add_ground_truth_to_proposals(gt: list[Instances] | list[Boxes], proposals: list[Instances]) -> list[Instances]:
    """``add_ground_truth_to_proposals_single_image`` for each image of a batch."""
    if len(gt) != len(proposals):
        raise AssertionError(f"got the ground truth of {len(gt)} images and the proposals of {len(proposals)}")
    return [add_ground_truth_to_proposals_single_image(g, p) for g, p in zip(gt, proposals)]


def add_ground_truth_to_proposals_single_image(gt: Instances | Boxes, proposals: Instances) -> Instances:
    """Append the ground truth's boxes (``gt_boxes`` of ``Instances``) to the proposals, with an objectness of nearly 1.

    Fields that the proposals have beside ``proposal_boxes`` and ``objectness_logits`` the ground truth must have too.
    """
    fields = {"gt_boxes": gt} if isinstance(gt, Boxes) else gt.get_fields()
    boxes = fields["gt_boxes"]
    logits = proposals.objectness_logits.new_full((len(boxes),), _GT_LOGIT)
    fields = {**fields, "proposal_boxes": boxes, "objectness_logits": logits}
    missing = [name for name in proposals.get_fields() if name not in fields]
    if missing:
        raise AssertionError(f"The attributes {missing} in `proposals` do not exist in `gt`")
    added = Instances(proposals.image_size, **{name: fields[name] for name in proposals.get_fields()})
    return Instances.cat([proposals, added])
