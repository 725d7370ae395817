"""RoI heads: sampling of proposals in training, pooling, box and mask heads."""

from __future__ import annotations

import torch
from torch import nn

from detectron2._missing import not_included
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.registry import Registry

from ..backbone.backbone import pick_shapes
from ..matcher import Matcher
from ..poolers import ROIPooler
from ..proposal_generator.proposal_utils import add_ground_truth_to_proposals
from ..sampling import subsample_labels
from .box_head import build_box_head
from .fast_rcnn import FastRCNNOutputLayers
from .mask_head import build_mask_head

ROI_HEADS_REGISTRY = Registry("ROI_HEADS")  # called with (cfg, dict[str, ShapeSpec])


def build_roi_heads(cfg, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build the RoI heads ``cfg.MODEL.ROI_HEADS.NAME`` for feature maps of these shapes."""
    return ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)(cfg, input_shape)


def select_foreground_proposals(
    proposals: list[Instances], bg_label: int
) -> tuple[list[Instances], list[torch.Tensor]]:
    """Select the proposals of each image whose ``gt_classes`` is neither ``bg_label`` nor -1 (ignore).

    Returns:
        The foreground proposals per image, and the bool masks that select them.
    """
    masks = [(p.gt_classes != -1) & (p.gt_classes != bg_label) for p in proposals]
    return [p[mask] for p, mask in zip(proposals, masks)], masks


class ROIHeads(nn.Module):
    """Base class of RoI heads: matches proposals with ground truth and samples them.

    A subclass defines ``forward``.

    Args:
        num_classes: number of classes without background, K. The background has index K.
        batch_size_per_image: number of proposals per image to sample in training.
        positive_fraction: maximum fraction of foreground proposals in the sample.
        proposal_matcher: labels proposals by their IoU with the ground truth.
        proposal_append_gt: whether the ground truth boxes are added to the proposals in training.
    """

    @configurable
    def __init__(
        self, *, num_classes: int, batch_size_per_image: int, positive_fraction: float, proposal_matcher: Matcher,
        proposal_append_gt: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.num_classes = num_classes
        self.proposal_matcher = proposal_matcher
        self.proposal_append_gt = proposal_append_gt

    @classmethod
    def from_config(cls, cfg) -> dict:
        """Read the arguments from ``cfg.MODEL.ROI_HEADS``.

        Raises:
            NotImplementedError: the config asks for keypoints, which are not included.
        """
        if cfg.MODEL.KEYPOINT_ON:
            raise not_included("MODEL.KEYPOINT_ON True")
        options = cfg.MODEL.ROI_HEADS
        return {
            "batch_size_per_image": options.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": options.POSITIVE_FRACTION,
            "num_classes": options.NUM_CLASSES,
            "proposal_append_gt": options.PROPOSAL_APPEND_GT,
            "proposal_matcher": Matcher(options.IOU_THRESHOLDS, options.IOU_LABELS, allow_low_quality_matches=False),
        }

    def _sample_proposals(
        self, matched_idxs: torch.Tensor, matched_labels: torch.Tensor, gt_classes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample the proposals of one image.

        Args:
            matched_idxs, matched_labels: (N,), as ``proposal_matcher`` returns them for N proposals.
            gt_classes: classes of the M ground truths, (M,).

        Returns:
            Indices of the sampled proposals, foreground first, and their classes in [0, K].
        """
        if gt_classes.numel() > 0:
            classes = gt_classes[matched_idxs]
            classes[matched_labels == 0] = self.num_classes
            classes[matched_labels == -1] = -1
        else:
            classes = torch.full_like(matched_idxs, self.num_classes)
        sampled = subsample_labels(classes, self.batch_size_per_image, self.positive_fraction, self.num_classes)
        sampled = torch.cat(sampled)
        return sampled, classes[sampled]

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Match proposals with ground truth, sample them, and add their targets.

        Args:
            proposals: one per image, with ``proposal_boxes`` and ``objectness_logits``.
            targets: one per image, with ``gt_boxes``, ``gt_classes`` and optionally other ``gt_...`` fields.

        Returns:
            The sampled proposals per image, with ``gt_classes`` and, if the image has ground truth, all ``gt_...``
            fields of the matched ground truth. The latter are only valid for foreground proposals.
        """
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        sampled_proposals, num_fg, num_bg = [], 0, 0
        for image_proposals, image_targets in zip(proposals, targets):
            iou = pairwise_iou(image_targets.gt_boxes, image_proposals.proposal_boxes)
            matches, labels = self.proposal_matcher(iou)
            sampled, gt_classes = self._sample_proposals(matches, labels, image_targets.gt_classes)
            sampled_instances = image_proposals[sampled]
            sampled_instances.gt_classes = gt_classes
            for name, value in image_targets.get_fields().items() if len(image_targets) else ():
                if name.startswith("gt_") and not sampled_instances.has(name):
                    sampled_instances.set(name, value[matches[sampled]])
            num_image_bg = (gt_classes == self.num_classes).sum().item()
            num_fg, num_bg = num_fg + len(gt_classes) - num_image_bg, num_bg + num_image_bg
            sampled_proposals.append(sampled_instances)
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", num_fg / len(proposals))
        storage.put_scalar("roi_head/num_bg_samples", num_bg / len(proposals))
        return sampled_proposals

    def forward(
        self, images: ImageList, features: dict[str, torch.Tensor], proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:  # fmt: skip
        """Compute losses in training, detections otherwise.

        Args:
            images: N images.
            features: feature maps (N, C, Hi, Wi) by name.
            proposals: one per image, with ``proposal_boxes`` and ``objectness_logits``.
            targets: the ground truth per image in training, with ``gt_boxes``, ``gt_classes`` and the other fields that
                the heads need.

        Returns:
            In training any list of ``Instances`` and a dict of losses, otherwise the detections per image and {}.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward()")

    def _training_proposals(self, proposals: list[Instances], targets: list[Instances] | None) -> list[Instances]:
        """Sample the proposals and add their targets in training. Otherwise return them unchanged."""
        if not self.training:
            return proposals
        if targets is None:
            raise AssertionError("RoI heads need targets in training")
        return self.label_and_sample_proposals(proposals, targets)


def _pooler_and_shapes(cfg, options, input_shape: dict[str, ShapeSpec]) -> tuple[ROIPooler | None, ShapeSpec | dict]:
    """Build the pooler of a head from the config node ``options``.

    Returns:
        The pooler and the shape of the pooled features. If POOLER_TYPE is empty, None and a dict with the shapes of the
        feature maps.
    """
    names, size = cfg.MODEL.ROI_HEADS.IN_FEATURES, options.POOLER_RESOLUTION
    shapes = pick_shapes(input_shape, names, "MODEL.ROI_HEADS.IN_FEATURES")
    if not options.POOLER_TYPE:
        return None, dict(zip(names, shapes))
    channels = {shape.channels for shape in shapes}
    if len(channels) != 1:
        raise AssertionError(f"MODEL.ROI_HEADS.IN_FEATURES: the feature maps have different channels: {channels}")
    scales = [1.0 / shape.stride for shape in shapes]
    pooler = ROIPooler(size, scales, options.POOLER_SAMPLING_RATIO, options.POOLER_TYPE)
    return pooler, ShapeSpec(channels=channels.pop(), height=size, width=size)


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeads(nn.Module):
    """A placeholder for RoI heads that are not included.

    It is registered, because it is the default of ``MODEL.ROI_HEADS.NAME``. Building it raises NotImplementedError.
    """

    def __init__(self, *args, **kwargs) -> None:
        raise not_included("MODEL.ROI_HEADS.NAME Res5ROIHeads (the default)")


@ROI_HEADS_REGISTRY.register()
class StandardROIHeads(ROIHeads):
    """A box head and optionally a mask head, each with its own pooler.

    Args:
        box_in_features: names of the feature maps for the box head.
        box_pooler, box_head, box_predictor: see ``ROIPooler``, ``FastRCNNConvFCHead``, ``FastRCNNOutputLayers``.
        mask_in_features: names of the feature maps for the mask head. None for no mask head.
        mask_pooler: see ``ROIPooler``. None if the mask head takes the dict of feature maps.
        mask_head: see ``BaseMaskRCNNHead``.
        train_on_pred_boxes: must be False, because training masks on predicted boxes is not included.
        kwargs: arguments of ``ROIHeads``.
    """

    @configurable
    def __init__(
        self, *, box_in_features: list[str], box_pooler: ROIPooler, box_head: nn.Module, box_predictor: nn.Module,
        mask_in_features: list[str] | None = None, mask_pooler: ROIPooler | None = None,
        mask_head: nn.Module | None = None, train_on_pred_boxes: bool = False, **kwargs,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.in_features = self.box_in_features = box_in_features
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.mask_on = mask_in_features is not None
        if self.mask_on:
            self.mask_in_features = mask_in_features
            self.mask_pooler = mask_pooler
            self.mask_head = mask_head
        if train_on_pred_boxes:
            raise not_included("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES True")

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read the arguments from the config and build the heads."""
        parts = {**cls._init_box_head(cfg, input_shape), **cls._init_mask_head(cfg, input_shape)}
        train_on_pred_boxes = cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES
        return {**super().from_config(cfg), **parts, "train_on_pred_boxes": train_on_pred_boxes}

    @classmethod
    def _init_box_head(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        """Return ``box_in_features``, ``box_pooler``, ``box_head`` and ``box_predictor``."""
        pooler, region = _pooler_and_shapes(cfg, cfg.MODEL.ROI_BOX_HEAD, input_shape)
        head = build_box_head(cfg, region)
        predictor = FastRCNNOutputLayers(cfg, head.output_shape)
        features = cfg.MODEL.ROI_HEADS.IN_FEATURES
        return {"box_in_features": features, "box_pooler": pooler, "box_head": head, "box_predictor": predictor}

    @classmethod
    def _init_mask_head(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        """Return ``mask_in_features``, ``mask_pooler`` and ``mask_head``, or {} without masks."""
        if not cfg.MODEL.MASK_ON:
            return {}
        pooler, region = _pooler_and_shapes(cfg, cfg.MODEL.ROI_MASK_HEAD, input_shape)
        head = build_mask_head(cfg, region)
        return {"mask_in_features": cfg.MODEL.ROI_HEADS.IN_FEATURES, "mask_pooler": pooler, "mask_head": head}

    def forward(
        self, images: ImageList, features: dict[str, torch.Tensor], proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:  # fmt: skip
        """See ``ROIHeads.forward``. In training the sampled proposals are returned."""
        proposals = self._training_proposals(proposals, targets)
        if not self.training:
            return self.forward_with_given_boxes(features, self._forward_box(features, proposals)), {}
        losses = self._forward_box(features, proposals)
        losses.update(self._forward_mask(features, proposals))
        return proposals, losses

    def forward_with_given_boxes(
        self, features: dict[str, torch.Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Add masks to instances with ``pred_boxes`` and ``pred_classes``. For inference only."""
        if self.training:
            raise AssertionError("forward_with_given_boxes() needs a model in eval mode: call model.eval() first")
        return self._forward_mask(features, instances)

    def _forward_box(self, features: dict[str, torch.Tensor], proposals: list[Instances]):
        """Return a dict of losses in training, detections otherwise."""
        boxes = [p.proposal_boxes for p in proposals]
        pooled = self.box_pooler([features[f] for f in self.box_in_features], boxes)
        predictions = self.box_predictor(self.box_head(pooled))
        if not self.training:
            return self.box_predictor.inference(predictions, proposals)[0]
        return self.box_predictor.losses(predictions, proposals)

    def _forward_mask(self, features: dict[str, torch.Tensor], instances: list[Instances]):
        """Return the losses of the foreground instances in training, else the instances with masks."""
        if not self.mask_on:
            return {} if self.training else instances
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        if self.mask_pooler is None:
            return self.mask_head({f: features[f] for f in self.mask_in_features}, instances)
        boxes = [x.proposal_boxes if self.training else x.pred_boxes for x in instances]
        return self.mask_head(self.mask_pooler([features[f] for f in self.mask_in_features], boxes), instances)
