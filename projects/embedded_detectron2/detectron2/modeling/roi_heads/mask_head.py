"""The mask head (He et al., 2017): prediction, loss, inference."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn
from torch.nn import functional as F

from detectron2._missing import not_included
from detectron2.config import configurable
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec, cat
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from detectron2.utils.registry import Registry

from .box_head import conv_relu

__all__ = ["ROI_MASK_HEAD_REGISTRY", "BaseMaskRCNNHead", "MaskRCNNConvUpsampleHead", "build_mask_head"]

ROI_MASK_HEAD_REGISTRY = Registry("ROI_MASK_HEAD")  # called with (cfg, ShapeSpec)


def _of_class(pred_mask_logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Select the logits of ``classes`` (B,) from (B, C, S, S).

    If C is 1, the only logits are returned.

    Returns:
        (B, S, S), float32.
    """
    if pred_mask_logits.shape[1] == 1:
        return pred_mask_logits[:, 0].float()
    return pred_mask_logits[torch.arange(len(classes), device=classes.device), classes].float()


def mask_rcnn_loss(pred_mask_logits: torch.Tensor, instances: list[Instances], vis_period: int = 0) -> torch.Tensor:
    """Compute the mean binary cross entropy over the mask pixels of the ground truth classes.

    Args:
        pred_mask_logits: (B, C, S, S), or (B, 1, S, S) if class-agnostic.
        instances: one per image, B instances in total in the order of the logits, with ``proposal_boxes``,
            ``gt_classes`` and ``gt_masks``. Without instances the loss is 0.
        vis_period: must be 0, because pictures of training are not included.
    """
    if vis_period > 0:
        raise not_included(f"VIS_PERIOD {vis_period}")
    size = pred_mask_logits.shape[2]
    if size != pred_mask_logits.shape[3]:
        raise AssertionError(f"mask logits must be square, got the shape {tuple(pred_mask_logits.shape)}")
    instances = [x for x in instances if len(x) > 0]
    if not instances:
        return pred_mask_logits.sum() * 0
    gt_masks = [x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, size) for x in instances]
    gt_masks = cat([masks.to(pred_mask_logits.device) for masks in gt_masks])  # rasterized polygons are on the CPU
    logits = _of_class(pred_mask_logits, cat([x.gt_classes.to(torch.int64) for x in instances]))

    storage = get_event_storage()
    positive = gt_masks > 0.5
    wrong, num_positive = (logits > 0) != positive, positive.sum().item()
    num_negative = positive.numel() - num_positive
    storage.put_scalar("mask_rcnn/accuracy", 1 - wrong.sum().item() / wrong.numel())
    storage.put_scalar("mask_rcnn/false_positive", (wrong & ~positive).sum().item() / max(num_negative, 1.0))
    storage.put_scalar("mask_rcnn/false_negative", (wrong & positive).sum().item() / max(num_positive, 1.0))
    return F.binary_cross_entropy_with_logits(logits, gt_masks.float(), reduction="mean")


def mask_rcnn_inference(pred_mask_logits: torch.Tensor, pred_instances: list[Instances]) -> None:
    """Set ``pred_masks`` of each image to the mask probabilities of the predicted classes, (Bi, 1, S, S).

    Args:
        pred_mask_logits: (B, C, S, S), or (B, 1, S, S) if class-agnostic.
        pred_instances: one per image, B instances in total in the order of the logits, with ``pred_classes``.
    """
    classes = cat([x.pred_classes for x in pred_instances])
    probabilities = _of_class(pred_mask_logits, classes)[:, None].sigmoid()
    for instances, masks in zip(pred_instances, probabilities.split([len(x) for x in pred_instances])):
        instances.pred_masks = masks


class BaseMaskRCNNHead(nn.Module):
    """Base class of mask heads: loss and inference. A subclass defines ``layers``.

    Args:
        loss_weight: factor on ``loss_mask``.
        vis_period: see ``mask_rcnn_loss``.
    """

    @configurable
    def __init__(self, *, loss_weight: float = 1.0, vis_period: int = 0) -> None:
        super().__init__()
        self.vis_period = vis_period
        self.loss_weight = loss_weight

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        """Read the arguments that all mask heads have from the config."""
        return {"vis_period": cfg.VIS_PERIOD}

    def forward(self, x, instances: list[Instances]):
        """Compute the mask loss in training, masks otherwise.

        Args:
            x: pooled features (B, C, H, W), in the order of the instances.
            instances: one per image, see ``mask_rcnn_loss`` and ``mask_rcnn_inference``.

        Returns:
            ``{"loss_mask": loss}`` in training, otherwise ``instances`` with ``pred_masks``.
        """
        x = self.layers(x)
        if self.training:
            return {"loss_mask": mask_rcnn_loss(x, instances, self.vis_period) * self.loss_weight}
        mask_rcnn_inference(x, instances)
        return instances

    def layers(self, x):
        """Compute mask logits (B, C, S, S) from pooled features. Defined by subclasses."""
        raise NotImplementedError(f"{type(self).__name__} must define layers()")


# Also a Sequential, because checkpoints name the layers as one flat list.
@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNConvUpsampleHead(BaseMaskRCNNHead, nn.Sequential):
    """The mask head of Mask R-CNN.

    3x3 convolutions, a 2x2 transposed convolution of stride 2 and a 1x1 convolution that predicts the logits.

    Args:
        input_shape: shape of the pooled features. Only the channels are used.
        num_classes: masks per RoI, 1 if class-agnostic.
        conv_dims: output channels of the 3x3 convolutions and, last, of the transposed convolution.
        conv_norm: norm of the 3x3 convolutions, see ``get_norm``.
        kwargs: arguments of ``BaseMaskRCNNHead``.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_classes: int, conv_dims: list[int], conv_norm="", **kwargs):
        super().__init__(**kwargs)
        if not conv_dims:
            raise AssertionError("conv_dims is empty, expected at least one number")
        channels = input_shape.channels
        for i, dim in enumerate(conv_dims[:-1], start=1):
            self.add_module(f"mask_fcn{i}", conv_relu(channels, dim, conv_norm))
            channels = dim
        self.deconv = ConvTranspose2d(channels, conv_dims[-1], kernel_size=2, stride=2)
        self.deconv_relu = nn.ReLU()
        self.predictor = Conv2d(conv_dims[-1], num_classes, kernel_size=1)
        for layer in [*self][:-2]:  # all up to the transposed convolution
            weight_init.c2_msra_fill(layer)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        """Read the arguments from ``cfg.MODEL.ROI_MASK_HEAD``."""
        options = cfg.MODEL.ROI_MASK_HEAD
        shape = {"input_shape": input_shape, "conv_dims": [options.CONV_DIM] * (options.NUM_CONV + 1)}
        num_classes = 1 if options.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES
        return {**super().from_config(cfg, input_shape), **shape, "num_classes": num_classes, "conv_norm": options.NORM}

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, num_classes, 2H, 2W) from pooled features (B, C, H, W)."""
        for layer in self:
            x = layer(x)
        return x


def build_mask_head(cfg, input_shape: ShapeSpec) -> nn.Module:
    """Build the head ``cfg.MODEL.ROI_MASK_HEAD.NAME`` for pooled features of this shape."""
    return ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.NAME)(cfg, input_shape)
