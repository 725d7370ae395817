"""What comes after the proposals: nothing, or categories from the features inside of each mask (the third stage of MNC,
which the paper puts behind InstanceFCN to get category-aware instances)."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, batched_nms, cross_entropy
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, ROIHeads, build_box_head
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..errors import InputError
from ..masks import crop_masks, mask_targets


@ROI_HEADS_REGISTRY.register()
class PassThroughROIHeads(nn.Module):
    """Stands where ROI heads would: the proposals are the result, and there is nothing to learn."""

    def __init__(self, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> None:
        super().__init__()

    def forward(self, images, features, proposals: list[Instances], targets=None) -> tuple[list[Instances], dict]:
        """The proposals as they came, and no losses."""
        return proposals, {}


@ROI_HEADS_REGISTRY.register()
class MaskPooledROIHeads(ROIHeads):
    """ROIAlign over each proposal's box, features outside of its mask set to 0, fully connected layers, C + 1 scores.
    Boxes are not regressed: a proposal's mask stays as it is.

    Args:
        in_features: names of the feature maps to pool from.
        pooler, box_head: Detectron2's, see ``MODEL.ROI_BOX_HEAD``.
        score_thresh, nms_thresh, max_detections: of categories' probabilities; box IoU within a category; an image.
        other arguments: of ``ROIHeads``.
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
        """Arguments out of ``cfg.MODEL.ROI_HEADS`` and ``ROI_BOX_HEAD``.

        Raises:
            InputError: feature maps that the backbone does not give, or of unequal channels.
        """
        names, options = cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.ROI_BOX_HEAD
        channels = {input_shape[name].channels for name in names if name in input_shape}
        if len(channels) != 1 or any(name not in input_shape for name in names):
            raise InputError(
                f"MODEL.ROI_HEADS.IN_FEATURES is {names}, wanted maps of equal channels of {list(input_shape)}"
            )
        size = options.POOLER_RESOLUTION
        scales = [1.0 / input_shape[name].stride for name in names]
        return {
            **super().from_config(cfg),
            "in_features": names,
            "pooler": ROIPooler(size, scales, options.POOLER_SAMPLING_RATIO, options.POOLER_TYPE),
            "box_head": build_box_head(cfg, ShapeSpec(channels=channels.pop(), height=size, width=size)),
            "score_thresh": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "nms_thresh": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    def forward(
        self, images: ImageList, features: dict[str, Tensor], proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:  # fmt: skip
        """Proposals of ``InstanceFCNProposals.nms_proposals`` to ``loss_cls`` in training, otherwise to instances: the fields
        of the proposals, ``scores`` and ``pred_classes``, by falling score."""
        size = self.pooler.output_size[0]
        given = proposals
        proposals = [_with_cells(p, size) for p in proposals]
        if self.training:
            if targets is None:
                raise AssertionError("MaskPooledROIHeads needs targets in training")
            proposals = self.label_and_sample_proposals(proposals, [_truth_with_cells(t, size) for t in targets])
        pooled = self.pooler([features[name] for name in self.in_features], [p.proposal_boxes for p in proposals])
        cells = torch.cat([p.cells for p in proposals])
        logits = self.cls_score(self.box_head(pooled * cells[:, None].to(pooled.dtype))).float()
        if self.training:
            classes = torch.cat([p.gt_classes for p in proposals])
            if len(classes):
                right = (logits.argmax(1) == classes).float().mean()
                get_event_storage().put_scalar("instance_fcn/cls_accuracy", right.item())
            return proposals, {"loss_cls": cross_entropy(logits, classes, reduction="mean")}
        scores = logits.softmax(1)[:, :-1].split([len(p) for p in proposals])
        return [self._detect(p, s) for p, s in zip(given, scores)], {}

    def _detect(self, proposals: Instances, scores: Tensor) -> Instances:
        """NMS within each category over the proposals of one image."""
        which, classes = (scores > self.score_thresh).nonzero().unbind(1)
        boxes = proposals.proposal_boxes.tensor[which]
        kept = batched_nms(boxes, scores[which, classes], classes, self.nms_thresh)[: self.max_detections]
        found = proposals[which[kept]]
        found.scores, found.pred_classes = scores[which, classes][kept], classes[kept]
        return found


def _with_cells(proposals: Instances, size: int) -> Instances:
    """Boxes, objectness and, as ``cells`` float (R, size, size), the share of each cell of the box that is mask."""
    windows, masks = proposals.windows.tensor, proposals.window_masks
    scale = masks.shape[1] / (windows[:, 2:] - windows[:, :2]).clamp(min=1e-6)
    boxes = (proposals.proposal_boxes.tensor - windows[:, :2].repeat(1, 2)) * scale.repeat(1, 2)
    made = Instances(proposals.image_size)
    made.proposal_boxes, made.objectness_logits = proposals.proposal_boxes, proposals.objectness_logits
    made.cells = crop_masks(masks >= 0.5, boxes, size)
    return made


def _truth_with_cells(truth: Instances, size: int) -> Instances:
    """Ground truth with what lets it join the proposals; its masks are thresholded."""
    made = Instances(truth.image_size, gt_boxes=truth.gt_boxes, gt_classes=truth.gt_classes)
    cells = mask_targets(truth.gt_masks, truth.gt_boxes.tensor, size, 0.5) if len(truth) else None
    made.cells = truth.gt_boxes.tensor.new_zeros((0, size, size)) if cells is None else cells.float()
    return made
