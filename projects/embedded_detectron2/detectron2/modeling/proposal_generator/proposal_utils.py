"""Selecting the best proposals, and adding the ground truth to proposals."""

from __future__ import annotations

import math

import torch

from detectron2.layers import batched_nms, cat
from detectron2.structures import Boxes, Instances

_GT_LOGIT = math.log((1.0 - 1e-10) / 1e-10)  # the logit of an objectness of nearly 1


def find_top_rpn_proposals(
    proposals: list[torch.Tensor], pred_objectness_logits: list[torch.Tensor], image_sizes: list[tuple[int, int]],
    nms_thresh: float, pre_nms_topk: int, post_nms_topk: int, min_box_size: float, training: bool,
) -> list[Instances]:  # fmt: skip
    """Select the best proposals of each image.

    Args:
        proposals: one tensor (N, Hi * Wi * A, 4) per level, XYXY in pixels. They are clipped to the image.
        pred_objectness_logits: one tensor (N, Hi * Wi * A) per level.
        image_sizes: (height, width) of the N images.
        nms_thresh: NMS threshold. NMS is applied per level.
        pre_nms_topk: maximum number of proposals per level and image before NMS.
        post_nms_topk: maximum number of proposals per image after NMS.
        min_box_size: minimum side length in pixels. Proposals with a shorter or equal side are removed.
        training: whether predictions that are infinite or NaN are an error. If False they are removed.

    Returns:
        One ``Instances`` per image with ``proposal_boxes`` and ``objectness_logits``, sorted by decreasing logits.

    Raises:
        FloatingPointError: a prediction is infinite or NaN in training.
    """
    boxes, top_logits, levels = [], [], []
    for level, (level_boxes, level_logits) in enumerate(zip(proposals, pred_objectness_logits)):
        top, index = level_logits.topk(min(pre_nms_topk, level_logits.shape[1]), dim=1)
        boxes.append(level_boxes.gather(1, index[..., None].expand(-1, -1, 4)))
        top_logits.append(top)
        levels.append(torch.full_like(index[0], level))
    levels = cat(levels)
    results = []
    for image_boxes, logits, image_size in zip(cat(boxes, dim=1), cat(top_logits, dim=1), image_sizes):
        finite = image_boxes.isfinite().all(dim=1) & logits.isfinite()
        if training and not finite.all():
            raise FloatingPointError("Predicted boxes or scores contain Inf/NaN. Training has diverged.")
        image = Instances(image_size, proposal_boxes=Boxes(image_boxes), objectness_logits=logits, level=levels)[finite]
        image.proposal_boxes.clip(image_size)
        image = image[image.proposal_boxes.nonempty(threshold=min_box_size)]
        keep = batched_nms(image.proposal_boxes.tensor, image.objectness_logits, image.level, nms_thresh)
        image.remove("level")
        results.append(image[keep[:post_nms_topk]])
    return results


def add_ground_truth_to_proposals(gt: list[Instances] | list[Boxes], proposals: list[Instances]) -> list[Instances]:
    """Call ``add_ground_truth_to_proposals_single_image`` for each image of a batch."""
    if len(gt) != len(proposals):
        raise AssertionError(f"got ground truth for {len(gt)} images, but proposals for {len(proposals)}")
    return [add_ground_truth_to_proposals_single_image(g, p) for g, p in zip(gt, proposals)]


def add_ground_truth_to_proposals_single_image(gt: Instances | Boxes, proposals: Instances) -> Instances:
    """Add the ground truth boxes to the proposals, with an objectness of nearly 1.

    Args:
        gt: the boxes, or ``Instances`` with ``gt_boxes`` and all fields of the proposals except ``proposal_boxes`` and
            ``objectness_logits``.
        proposals: has ``proposal_boxes`` and ``objectness_logits``.
    """
    fields = {"gt_boxes": gt} if isinstance(gt, Boxes) else gt.get_fields()
    boxes = fields["gt_boxes"]
    logits = proposals.objectness_logits.new_full((len(boxes),), _GT_LOGIT)
    fields = {**fields, "proposal_boxes": boxes, "objectness_logits": logits}
    missing = [name for name in proposals.get_fields() if name not in fields]
    if missing:
        raise AssertionError(f"the proposals have the fields {missing}, but the ground truth does not")
    added = Instances(proposals.image_size, **{name: fields[name] for name in proposals.get_fields()})
    return Instances.cat([proposals, added])
