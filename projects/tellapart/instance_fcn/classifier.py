"""ROI heads that can follow InstanceFCN's proposals: none, or a classifier of the features inside each mask.

The paper gets category-aware instances from the classifier, the third stage of MNC (Dai et al., CVPR 2016).
"""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, batched_nms, cross_entropy
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, ROIHeads, build_box_head
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ..devices import put_shares
from ..errors import InputError
from ..loss_share import loss_share
from ..masks import crop_masks, mask_targets


@ROI_HEADS_REGISTRY.register()
class PassThroughROIHeads(nn.Module):
    """Return the proposals unchanged, for class-agnostic results. There are no parameters and no losses."""

    def __init__(self, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> None:
        super().__init__()

    def forward(
        self, images: ImageList, features: dict[str, Tensor], proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:  # fmt: skip
        """Return ``proposals`` and no losses."""
        return proposals, {}


@ROI_HEADS_REGISTRY.register()
class MaskPooledROIHeads(ROIHeads):
    """Classify each proposal by the features inside its mask.

    ROIAlign pools the features of the proposal's box, features outside the mask are set to 0, and the box head and one
    linear layer predict C + 1 class logits, background last. Boxes and masks are not refined.

    Args:
        in_features: names of the feature maps to pool from.
        pooler: pools the features of boxes.
        box_head: Detectron2's box head, see ``MODEL.ROI_BOX_HEAD``.
        score_thresh: detections with a class probability up to this value are dropped.
        nms_thresh: box IoU threshold of the NMS within each category.
        max_detections: largest number of detections per image.
        **kwargs: arguments of ``ROIHeads``.
    """

    @configurable
    def __init__(
        self, *, in_features: list[str], pooler: ROIPooler, box_head: nn.Module, score_thresh: float,
        nms_thresh: float, max_detections: int, **kwargs,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.in_features, self.pooler, self.box_head = in_features, pooler, box_head
        self.score_thresh, self.nms_thresh, self.max_detections = score_thresh, nms_thresh, max_detections
        self.cls_score = nn.Linear(box_head.output_shape.channels, self.num_classes + 1)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.zeros_(self.cls_score.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read the arguments from ``cfg.MODEL.ROI_HEADS``, ``cfg.MODEL.ROI_BOX_HEAD`` and ``cfg.TEST``.

        Raises:
            InputError: the backbone does not return one of the feature maps, or their numbers of channels differ.
        """
        names, options = cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.ROI_BOX_HEAD
        channels = {input_shape[name].channels for name in names if name in input_shape}
        if len(channels) != 1 or any(name not in input_shape for name in names):
            raise InputError(
                f"MODEL.ROI_HEADS.IN_FEATURES is {names}, expected feature maps with the same number of channels among "
                f"those of the backbone, {list(input_shape)}"
            )
        size = options.POOLER_RESOLUTION
        pooler_scales = [1.0 / input_shape[name].stride for name in names]
        return {
            **super().from_config(cfg),
            "in_features": names,
            "pooler": ROIPooler(size, pooler_scales, options.POOLER_SAMPLING_RATIO, options.POOLER_TYPE),
            "box_head": build_box_head(cfg, ShapeSpec(channels=channels.pop(), height=size, width=size)),
            "score_thresh": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "nms_thresh": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    def forward(
        self, images: ImageList, features: dict[str, Tensor], proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:  # fmt: skip
        """Compute ``loss_cls`` in training, detect in inference.

        Args:
            images: N images, not used.
            features: feature maps (N, C, Hi, Wi) by name.
            proposals: per image, the result of ``InstanceFCNProposals.nms_proposals``.
            targets: per image, the ground truth; only in training.

        Returns:
            In training, the sampled proposals and the loss. In inference, detections by descending class probability,
            and no losses: the fields of the proposals, ``scores`` (class probabilities) and ``pred_classes``.
        """
        resolution = self.pooler.output_size[0]
        pooled_proposals = [_proposals_with_coverage(p, resolution) for p in proposals]
        if self.training:
            if targets is None:
                raise AssertionError("MaskPooledROIHeads needs targets in training")
            gt_instances = [_gt_with_coverage(t, resolution) for t in targets]
            pooled_proposals = self.label_and_sample_proposals(pooled_proposals, gt_instances)
        boxes = [p.proposal_boxes for p in pooled_proposals]
        pooled_features = self.pooler([features[name] for name in self.in_features], boxes)
        coverage = torch.cat([p.mask_coverage for p in pooled_proposals])
        masked_features = pooled_features * coverage[:, None].to(pooled_features.dtype)
        class_logits = self.cls_score(self.box_head(masked_features)).float()
        if self.training:
            gt_classes = torch.cat([p.gt_classes for p in pooled_proposals])
            put_shares({"instance_fcn/cls_accuracy": class_logits.argmax(1) == gt_classes})
            loss = cross_entropy(class_logits, gt_classes, reduction="mean")
            return pooled_proposals, {"loss_cls": loss * loss_share(len(gt_classes), loss)}
        class_probs = class_logits.softmax(1)[:, :-1].split([len(p) for p in pooled_proposals])
        return [self._select_detections(p, probs) for p, probs in zip(proposals, class_probs)], {}

    def _select_detections(self, proposals: Instances, class_probs: Tensor) -> Instances:
        """Threshold the class probabilities (R, C) of one image and apply NMS within each category."""
        proposal_index, classes = (class_probs > self.score_thresh).nonzero().unbind(1)
        boxes, scores = proposals.proposal_boxes.tensor[proposal_index], class_probs[proposal_index, classes]
        kept = batched_nms(boxes, scores, classes, self.nms_thresh)[: self.max_detections]
        detections = proposals[proposal_index[kept]]
        detections.scores, detections.pred_classes = scores[kept], classes[kept]
        return detections


def _proposals_with_coverage(proposals: Instances, resolution: int) -> Instances:
    """Return what the classifier reads of the proposals: boxes, objectness logits and ``mask_coverage``.

    ``mask_coverage`` float (R, resolution, resolution) is the share of each cell of the box that the mask covers.
    """
    window_boxes, window_masks = proposals.window_boxes.tensor, proposals.window_masks
    cells_per_pixel = window_masks.shape[1] / (window_boxes[:, 2:] - window_boxes[:, :2]).clamp(min=1e-6)
    offsets = proposals.proposal_boxes.tensor - window_boxes[:, :2].repeat(1, 2)
    boxes_in_cells = offsets * cells_per_pixel.repeat(1, 2)
    result = Instances(proposals.image_size)
    result.proposal_boxes, result.objectness_logits = proposals.proposal_boxes, proposals.objectness_logits
    result.mask_coverage = crop_masks(window_masks >= 0.5, boxes_in_cells, resolution)
    return result


def _gt_with_coverage(gt_instances: Instances, resolution: int) -> Instances:
    """Return boxes, classes and ``mask_coverage``, 0 or 1, of ground truth, so that it can join the proposals."""
    gt_boxes = gt_instances.gt_boxes
    result = Instances(gt_instances.image_size, gt_boxes=gt_boxes, gt_classes=gt_instances.gt_classes)
    if len(gt_instances):
        result.mask_coverage = mask_targets(gt_instances.gt_masks, gt_boxes.tensor, resolution, 0.5).float()
    else:  # the loader adds no gt_masks to an image without instances
        result.mask_coverage = gt_boxes.tensor.new_zeros((0, resolution, resolution))
    return result
