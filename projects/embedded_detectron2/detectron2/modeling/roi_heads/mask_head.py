"""Mask prediction (He et al., 2017)."""

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

ROI_MASK_HEAD_REGISTRY = Registry("ROI_MASK_HEAD")  # (cfg, ShapeSpec) -> called like BaseMaskRCNNHead


def _of_class(pred_mask_logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """(B, C, S, S) to the masks of ``classes`` (B,), or the only ones there are: (B, S, S), float32."""
    if pred_mask_logits.shape[1] == 1:
        return pred_mask_logits[:, 0].float()
    return pred_mask_logits[torch.arange(len(classes), device=classes.device), classes].float()


def mask_rcnn_loss(pred_mask_logits: torch.Tensor, instances: list[Instances], vis_period: int = 0) -> torch.Tensor:
    """Mean binary cross entropy over the pixels of the true classes' masks; 0 for no instances.

    Args:
        pred_mask_logits: (B, C, S, S), or (B, 1, S, S) if class-agnostic.
        instances: one an image, B in all in the same order, with ``proposal_boxes``, ``gt_classes``, ``gt_masks``.
        vis_period: every how many iterations to put images of the masks into the event storage; 0: never.
    """
    if vis_period > 0:
        raise not_included("VIS_PERIOD > 0")
    size = pred_mask_logits.shape[2]
    if size != pred_mask_logits.shape[3]:
        raise AssertionError(f"Mask prediction must be square! Got {tuple(pred_mask_logits.shape)}.")
    instances = [x for x in instances if len(x) > 0]
    if not instances:
        return pred_mask_logits.sum() * 0
    gt_masks = [x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, size) for x in instances]
    gt_masks = cat([masks.to(pred_mask_logits.device) for masks in gt_masks])  # of polygons they are on the CPU
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
    """Set ``pred_masks``, the predicted classes' probabilities (Bi, 1, S, S), in each image's instances.

    Args:
        pred_mask_logits: (B, C, S, S), or (B, 1, S, S) if class-agnostic.
        pred_instances: one an image, B in all in the same order, with ``pred_classes``.
    """
    classes = cat([x.pred_classes for x in pred_instances])
    probabilities = _of_class(pred_mask_logits, classes)[:, None].sigmoid()
    for instances, masks in zip(pred_instances, probabilities.split([len(x) for x in pred_instances])):
        instances.pred_masks = masks


class BaseMaskRCNNHead(nn.Module):
    """Losses and inference around ``layers``, which a subclass defines.

    ``loss_weight`` is a factor on ``loss_mask``; for ``vis_period`` see ``mask_rcnn_loss``.
    """

    @configurable
    def __init__(self, *, loss_weight: float = 1.0, vis_period: int = 0) -> None:
        super().__init__()
        self.vis_period = vis_period
        self.loss_weight = loss_weight

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        """Arguments common to all mask heads."""
        return {"vis_period": cfg.VIS_PERIOD}

    def forward(self, x, instances: list[Instances]):
        """Features of B regions, (B, C, H, W), in the order of the instances.

        In training ``{"loss_mask": ...}``, see ``mask_rcnn_loss``; otherwise ``instances`` with ``pred_masks``.
        """
        x = self.layers(x)
        if self.training:
            return {"loss_mask": mask_rcnn_loss(x, instances, self.vis_period) * self.loss_weight}
        mask_rcnn_inference(x, instances)
        return instances

    def layers(self, x):
        """Region features to mask logits (B, C, S, S)."""
        raise NotImplementedError(f"{type(self).__name__} must define layers()")


# a Sequential as well, so that a checkpoint's names are those of a flat list of layers
@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNConvUpsampleHead(BaseMaskRCNNHead, nn.Sequential):
    """3x3 convolutions, a 2x2 deconvolution of stride 2 and a 1x1 predictor.

    Args:
        input_shape: its channels count.
        num_classes: masks a region; 1 if class-agnostic.
        conv_dims: channels of the convolutions and, the last, of the deconvolution.
        conv_norm: for the convolutions, see ``get_norm``.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_classes: int, conv_dims: list[int], conv_norm="", **kwargs):
        super().__init__(**kwargs)
        if not conv_dims:
            raise AssertionError("conv_dims have to be non-empty!")
        channels = input_shape.channels
        for i, dim in enumerate(conv_dims[:-1], start=1):
            self.add_module(f"mask_fcn{i}", conv_relu(channels, dim, conv_norm))
            channels = dim
        self.deconv = ConvTranspose2d(channels, conv_dims[-1], kernel_size=2, stride=2)
        self.deconv_relu = nn.ReLU()
        self.predictor = Conv2d(conv_dims[-1], num_classes, kernel_size=1)
        for layer in [*self][:-2]:  # all up to the deconvolution
            weight_init.c2_msra_fill(layer)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        """Arguments out of ``cfg.MODEL.ROI_MASK_HEAD``."""
        options = cfg.MODEL.ROI_MASK_HEAD
        shape = {"input_shape": input_shape, "conv_dims": [options.CONV_DIM] * (options.NUM_CONV + 1)}
        num_classes = 1 if options.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES
        return {**super().from_config(cfg, input_shape), **shape, "num_classes": num_classes, "conv_norm": options.NORM}

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to logits (B, num_classes, 2H, 2W)."""
        for layer in self:
            x = layer(x)
        return x


def build_mask_head(cfg, input_shape: ShapeSpec) -> nn.Module:
    """The head ``cfg.MODEL.ROI_MASK_HEAD.NAME`` for regions of this shape."""
    return ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.NAME)(cfg, input_shape)
