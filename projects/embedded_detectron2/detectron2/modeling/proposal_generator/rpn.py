"""Region proposal network (Ren et al., 2015)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, cat
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.memory import retry_if_cuda_oom
from detectron2.utils.registry import Registry

from ..anchor_generator import build_anchor_generator
from ..backbone.backbone import pick_shapes
from ..box_regression import Box2BoxTransform, _dense_box_regression_loss
from ..matcher import Matcher
from ..sampling import subsample_labels
from .build import PROPOSAL_GENERATOR_REGISTRY
from .proposal_utils import find_top_rpn_proposals

RPN_HEAD_REGISTRY = Registry("RPN_HEAD")  # called with (cfg, list[ShapeSpec])


def build_rpn_head(cfg, input_shape: list[ShapeSpec]) -> nn.Module:
    """Build the head ``cfg.MODEL.RPN.HEAD_NAME`` for feature maps of these shapes."""
    return RPN_HEAD_REGISTRY.get(cfg.MODEL.RPN.HEAD_NAME)(cfg, input_shape)


@RPN_HEAD_REGISTRY.register()
class StandardRPNHead(nn.Module):
    """Predict objectness logits and box deltas.

    3x3 convolutions are followed by one 1x1 convolution for the logits and one for the deltas. All levels share them.

    Args:
        in_channels: channels of every level.
        num_anchors: number of anchors per pixel, A.
        box_dim: numbers per box, B.
        conv_dims: channels of the 3x3 convolutions. -1 means the number of input channels.
    """

    @configurable
    def __init__(self, *, in_channels: int, num_anchors: int, box_dim: int = 4, conv_dims: list[int] = (-1,)) -> None:
        super().__init__()
        convs, channels = nn.Sequential(), in_channels
        for i, dim in enumerate(conv_dims):
            dim = channels if dim == -1 else dim
            convs.add_module(f"conv{i}", Conv2d(channels, dim, kernel_size=3, padding=1, activation=nn.ReLU()))
            channels = dim
        self.conv = convs[0] if len(convs) == 1 else convs  # a single one is named "conv" in checkpoints
        self.objectness_logits = nn.Conv2d(channels, num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(channels, num_anchors * box_dim, kernel_size=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg, input_shape: list[ShapeSpec]) -> dict:
        """Read the arguments from the config. All feature maps must have the same channels."""
        anchors = build_anchor_generator(cfg, input_shape)
        channels, numbers = {shape.channels for shape in input_shape}, set(anchors.num_anchors)
        if len(channels) != 1 or len(numbers) != 1:
            raise AssertionError(f"all levels need the same channels and number of anchors, got {channels}, {numbers}")
        dims = {"box_dim": anchors.box_dim, "conv_dims": cfg.MODEL.RPN.CONV_DIMS}
        return {"in_channels": channels.pop(), "num_anchors": numbers.pop(), **dims}

    def forward(self, features: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Compute logits (N, A, Hi, Wi) and deltas (N, A * B, Hi, Wi) from feature maps (N, C, Hi, Wi)."""
        hidden = [self.conv(feature) for feature in features]
        return [self.objectness_logits(h) for h in hidden], [self.anchor_deltas(h) for h in hidden]


@PROPOSAL_GENERATOR_REGISTRY.register()
class RPN(nn.Module):
    """Region proposal network: anchors, their objectness and box deltas, the best boxes, losses.

    Args:
        in_features: names of the feature maps to use.
        head: see ``StandardRPNHead``.
        anchor_generator: see ``DefaultAnchorGenerator``.
        anchor_matcher: labels anchors by their IoU with the ground truth.
        box2box_transform: defines the deltas.
        batch_size_per_image: number of anchors per image to sample for the losses.
        positive_fraction: maximum fraction of positive anchors in the sample.
        pre_nms_topk, post_nms_topk: values for training and for inference, see ``find_top_rpn_proposals``.
        nms_thresh, min_box_size: see ``find_top_rpn_proposals``.
        anchor_boundary_thresh: anchors that are more than this many pixels outside the image are ignored in training.
            Negative: no anchors are ignored.
        loss_weight: factor on both losses, or a dict of factors on ``loss_rpn_cls`` and ``loss_rpn_loc``.
        box_reg_loss_type, smooth_l1_beta: see ``Box2BoxTransform.loss``.
    """

    @configurable
    def __init__(
        self, *, in_features: list[str], head: nn.Module, anchor_generator: nn.Module, anchor_matcher: Matcher,
        box2box_transform: Box2BoxTransform, batch_size_per_image: int, positive_fraction: float,
        pre_nms_topk: tuple[float, float], post_nms_topk: tuple[float, float], nms_thresh: float = 0.7,
        min_box_size: float = 0.0, anchor_boundary_thresh: float = -1.0, loss_weight: float | dict[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1", smooth_l1_beta: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features = in_features
        self.rpn_head = head
        self.anchor_generator = anchor_generator
        self.anchor_matcher = anchor_matcher
        self.box2box_transform = box2box_transform
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.pre_nms_topk = dict(zip((True, False), pre_nms_topk))  # key: self.training
        self.post_nms_topk = dict(zip((True, False), post_nms_topk))
        self.nms_thresh = nms_thresh
        self.min_box_size = float(min_box_size)
        self.anchor_boundary_thresh = anchor_boundary_thresh
        if not isinstance(loss_weight, dict):
            loss_weight = dict.fromkeys(("loss_rpn_cls", "loss_rpn_loc"), loss_weight)
        self.loss_weight = loss_weight
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read the arguments from ``cfg.MODEL.RPN`` and ``cfg.MODEL.PROPOSAL_GENERATOR``."""
        options = cfg.MODEL.RPN
        shapes = pick_shapes(input_shape, options.IN_FEATURES, "MODEL.RPN.IN_FEATURES")
        loc_weight = options.BBOX_REG_LOSS_WEIGHT * options.LOSS_WEIGHT
        return {
            "in_features": options.IN_FEATURES,
            "head": build_rpn_head(cfg, shapes),
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "anchor_matcher": Matcher(options.IOU_THRESHOLDS, options.IOU_LABELS, allow_low_quality_matches=True),
            "box2box_transform": Box2BoxTransform(weights=options.BBOX_REG_WEIGHTS),
            "batch_size_per_image": options.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": options.POSITIVE_FRACTION,
            "pre_nms_topk": (options.PRE_NMS_TOPK_TRAIN, options.PRE_NMS_TOPK_TEST),
            "post_nms_topk": (options.POST_NMS_TOPK_TRAIN, options.POST_NMS_TOPK_TEST),
            "nms_thresh": options.NMS_THRESH,
            "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
            "anchor_boundary_thresh": options.BOUNDARY_THRESH,
            "loss_weight": {"loss_rpn_cls": options.LOSS_WEIGHT, "loss_rpn_loc": loc_weight},
            "box_reg_loss_type": options.BBOX_REG_LOSS_TYPE,
            "smooth_l1_beta": options.SMOOTH_L1_BETA,
        }

    def _subsample_labels(self, label: torch.Tensor) -> torch.Tensor:
        """Set the labels of all anchors that are not sampled to -1, in place."""
        positive, negative = subsample_labels(label, self.batch_size_per_image, self.positive_fraction, 0)
        label.fill_(-1)
        label[positive] = 1
        label[negative] = 0
        return label

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Match the R anchors of all levels with the ground truth, and sample them.

        Args:
            anchors: one ``Boxes`` per level.
            gt_instances: one per image, with ``gt_boxes``.

        Returns:
            Labels of the anchors per image, int8 (R,): 1 positive, 0 negative, -1 not sampled. Matched ground truth
            boxes per image, (R, 4), valid where the label is 1.
        """
        all_anchors = Boxes.cat(anchors)
        gt_labels, matched_gt_boxes = [], []
        for instances in gt_instances:
            boxes = instances.gt_boxes.tensor
            iou = retry_if_cuda_oom(pairwise_iou)(instances.gt_boxes, all_anchors)
            matches, labels = (x.to(boxes.device) for x in retry_if_cuda_oom(self.anchor_matcher)(iou))
            if self.anchor_boundary_thresh >= 0:
                labels[~all_anchors.inside_box(instances.image_size, self.anchor_boundary_thresh)] = -1
            gt_labels.append(self._subsample_labels(labels))
            matched_gt_boxes.append(boxes[matches] if len(boxes) else torch.zeros_like(all_anchors.tensor))
        return gt_labels, matched_gt_boxes

    def losses(
        self, anchors: list[Boxes], pred_objectness_logits: list[torch.Tensor], gt_labels: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor], gt_boxes: list[torch.Tensor],
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """Compute ``loss_rpn_cls`` and ``loss_rpn_loc``.

        Both are sums, divided by the number of images times the configured batch size per image.

        Args:
            anchors: one ``Boxes`` of Hi * Wi * A boxes per level.
            pred_objectness_logits: one tensor (N, Hi * Wi * A) per level.
            gt_labels, gt_boxes: see ``label_and_sample_anchors``.
            pred_anchor_deltas: one tensor (N, Hi * Wi * A, 4) per level.
        """
        num_images, labels = len(gt_labels), torch.stack(gt_labels)
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", (labels == 1).sum().item() / num_images)
        storage.put_scalar("rpn/num_neg_anchors", (labels == 0).sum().item() / num_images)
        options = (self.box_reg_loss_type, self.smooth_l1_beta)
        loc_loss = _dense_box_regression_loss(
            anchors, self.box2box_transform, pred_anchor_deltas, gt_boxes, labels == 1, *options
        )
        sampled = labels >= 0
        logits = cat(pred_objectness_logits, dim=1)[sampled].float()
        cls_loss = F.binary_cross_entropy_with_logits(logits, labels[sampled].float(), reduction="sum")
        normalizer = self.batch_size_per_image * num_images
        losses = {"loss_rpn_cls": cls_loss / normalizer, "loss_rpn_loc": loc_loss / normalizer}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def forward(
        self, images: ImageList, features: dict[str, torch.Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Compute proposals and, in training, losses.

        Args:
            images: N images. Only their sizes are used.
            features: feature maps (N, C, Hi, Wi) by name.
            gt_instances: one per image, with ``gt_boxes``. Needed in training.

        Returns:
            One ``Instances`` per image with ``proposal_boxes`` and ``objectness_logits``, both without gradients, and a
            dict of losses, {} in inference.
        """
        selected = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(selected)
        logits, deltas = self.rpn_head(selected)
        # In the order of the anchors: (N, A, H, W) -> (N, H * W * A), (N, A * B, H, W) -> (N, H * W * A, B).
        logits = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]
        box_dim = self.anchor_generator.box_dim
        deltas = [x.unflatten(1, (-1, box_dim)).permute(0, 3, 4, 1, 2).flatten(1, -2) for x in deltas]
        losses = {}
        if self.training:
            if gt_instances is None:
                raise AssertionError("RPN requires gt_instances in training!")
            gt_labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, gt_labels, deltas, gt_boxes)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    @torch.no_grad()
    def predict_proposals(
        self, anchors: list[Boxes], pred_objectness_logits: list[torch.Tensor], pred_anchor_deltas: list[torch.Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:  # fmt: skip
        """Apply the deltas to the anchors and select the best boxes.

        See ``losses`` for the arguments and ``find_top_rpn_proposals`` for the result.
        """
        topk = (self.pre_nms_topk[self.training], self.post_nms_topk[self.training])
        options = (self.nms_thresh, *topk, self.min_box_size, self.training)
        proposals = self._decode_proposals(anchors, pred_anchor_deltas)
        return find_top_rpn_proposals(proposals, pred_objectness_logits, image_sizes, *options)

    def _decode_proposals(self, anchors: list[Boxes], pred_anchor_deltas: list[torch.Tensor]) -> list[torch.Tensor]:
        """Apply the deltas to the anchors: boxes (N, Hi * Wi * A, 4) per level."""
        proposals = []
        for level_anchors, deltas in zip(anchors, pred_anchor_deltas):
            tiled = level_anchors.tensor.repeat(len(deltas), 1)
            proposals.append(self.box2box_transform.apply_deltas(deltas.flatten(0, 1), tiled).view_as(deltas))
        return proposals
