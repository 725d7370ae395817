"""Choosing proposals among a network's predictions, and adding the ground truth to them."""

from __future__ import annotations

import math

import torch

from detectron2.layers import batched_nms, cat
from detectron2.structures import Boxes, Instances

_GT_LOGIT = math.log((1.0 - 1e-10) / 1e-10)  # of an objectness of nearly 1


def find_top_rpn_proposals(
    proposals: list[torch.Tensor],
    pred_objectness_logits: list[torch.Tensor],
    image_sizes: list[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """The best boxes of each image: top scores of each level, clipped, empty ones dropped, NMS within the level, and
    the top scores of what remains over all levels.

    Args:
        proposals: one a level, (N, Hi * Wi * A, 4) XYXY pixels.
        pred_objectness_logits: one a level, (N, Hi * Wi * A).
        image_sizes: (height, width) of each of the N images.
        nms_thresh: boxes that overlap a better one by a larger IoU are dropped.
        pre_nms_topk: boxes kept per level before NMS.
        post_nms_topk: boxes kept per image after it.
        min_box_size: boxes with a side not longer than this, in pixels, are dropped.
        training: whether infinite or NaN predictions are an error; otherwise they are dropped.

    Returns:
        ``Instances`` with ``proposal_boxes`` and ``objectness_logits``, best first.

    Raises:
        FloatingPointError: see ``training``.
    """
    boxes, scores, levels = [], [], []
    for level, (level_boxes, level_scores) in enumerate(zip(proposals, pred_objectness_logits)):
        top, index = level_scores.topk(min(pre_nms_topk, level_scores.shape[1]), dim=1)
        boxes.append(level_boxes.gather(1, index[..., None].expand(-1, -1, 4)))
        scores.append(top)
        levels.append(torch.full_like(index[0], level))
    all_boxes, all_scores, all_levels = cat(boxes, dim=1), cat(scores, dim=1), cat(levels)

    results = []
    for image_boxes, image_scores, image_size in zip(all_boxes, all_scores, image_sizes):
        keep = image_boxes.isfinite().all(dim=1) & image_scores.isfinite()
        if not keep.all():
            if training:
                raise FloatingPointError("Predicted boxes or scores contain Inf/NaN. Training has diverged.")
            image_boxes, image_scores = image_boxes[keep], image_scores[keep]
        image_levels = all_levels[keep]
        candidates = Boxes(image_boxes)
        candidates.clip(image_size)
        keep = candidates.nonempty(threshold=min_box_size)
        candidates, image_scores, image_levels = candidates[keep], image_scores[keep], image_levels[keep]
        keep = batched_nms(candidates.tensor, image_scores, image_levels, nms_thresh)[:post_nms_topk]
        results.append(
            Instances(image_size, proposal_boxes=candidates[keep], objectness_logits=image_scores[keep]),
        )
    return results


def add_ground_truth_to_proposals(gt: list[Instances] | list[Boxes], proposals: list[Instances]) -> list[Instances]:
    """``add_ground_truth_to_proposals_single_image`` for each image of a batch."""
    if len(gt) != len(proposals):
        raise AssertionError(f"got the ground truth of {len(gt)} images and the proposals of {len(proposals)}")
    return [add_ground_truth_to_proposals_single_image(g, p) for g, p in zip(gt, proposals)]


def add_ground_truth_to_proposals_single_image(gt: Instances | Boxes, proposals: Instances) -> Instances:
    """Append the ground truth's boxes to the proposals, with an objectness of nearly 1.

    Args:
        gt: boxes, or ``Instances`` with ``gt_boxes``; those must have any further field that the proposals have.
        proposals: with ``proposal_boxes`` and ``objectness_logits``.
    """
    fields = {"gt_boxes": gt} if isinstance(gt, Boxes) else gt.get_fields()
    boxes = fields["gt_boxes"]
    logits = proposals.objectness_logits
    added = Instances(
        proposals.image_size, proposal_boxes=boxes, objectness_logits=logits.new_full((len(boxes),), _GT_LOGIT)
    )
    for name in proposals.get_fields():
        if not added.has(name):
            if name not in fields:
                raise AssertionError(f"The attribute '{name}' in `proposals` does not exist in `gt`")
            added.set(name, fields[name])
    return Instances.cat([proposals, added])
