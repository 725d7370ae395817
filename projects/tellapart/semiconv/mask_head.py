"""Mask R-CNN's mask head with a semi-convolutional kernel (section 3.4, equations 8 to 10)."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY, MaskRCNNConvUpsampleHead
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference, mask_rcnn_loss
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn import functional as F

from ..autograd import zero_with_grad
from ..embeddings.kernels import KERNEL_REGISTRY, SEEDS, soft_seed
from ..embeddings.operator import SemiConv
from ..embeddings.options import check_options
from ..embeddings.predictor import EmbeddingPredictor

# 1 - K is at least this in the kernel's own loss: two pixels with the same embedding cost and push a finite amount
_NEVER_SURE = 0.01


@ROI_MASK_HEAD_REGISTRY.register()
class SemiConvMaskHead(MaskRCNNConvUpsampleHead):
    """Mask R-CNN's mask head, whose logits s become s + log K: the kernel between each pixel and the region's seed.

    All names of parameters of the base class stay, so a Mask R-CNN checkpoint fits. Under ``SemiConvROIHeads`` it is
    the paper's, and gets embeddings cut out of maps of the whole image. Under any other ROI heads it predicts Phi from
    the pooled features of each region and adds the places of the region's cells: pixels of an instance then agree only
    within a region, and no loss ties them together over the image.

    Args:
        input_shape: of the pooled features.
        semiconv: the operator.
        kernel: of ``KERNEL_REGISTRY``.
        predictor: Phi from pooled features; None if the embeddings are given.
        seed: "soft" or "hard", at inference; in training it is soft.
        kernel_loss_weight: factor on ``loss_kernel``, the binary cross-entropy between K and the instance's mask.
        other arguments: of ``MaskRCNNConvUpsampleHead``.
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, semiconv: SemiConv, kernel: nn.Module, predictor: EmbeddingPredictor | None,
        seed: str, kernel_loss_weight: float, **kwargs,
    ) -> None:  # fmt: skip
        super().__init__(input_shape, **kwargs)
        self.semiconv = nn.ModuleDict({"operator": semiconv, "kernel": kernel})
        if predictor is not None:
            self.semiconv["predictor"] = predictor
        self.seed, self.kernel_loss_weight = SEEDS[seed], kernel_loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Arguments out of ``cfg.MODEL.SEMICONV`` and ``ROI_MASK_HEAD``.

        Raises:
            InputError: names the key, what it is and what is wanted.
        """
        options = check_options(cfg)
        heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
        of_regions = not getattr(heads, "gives_embeddings", False)
        return {
            **super().from_config(cfg, input_shape),
            "semiconv": SemiConv(options.PIXELS_PER_UNIT, options.MIXING),
            "kernel": KERNEL_REGISTRY.get(options.KERNEL)(options.SIGMA),
            "predictor": EmbeddingPredictor.from_cfg(cfg, input_shape.channels) if of_regions else None,
            "seed": options.SEED,
            "kernel_loss_weight": options.KERNEL_LOSS_WEIGHT,
        }

    def __iter__(self):
        """The layers from pooled features to logits: the base class, an ``nn.Sequential``, runs all it consists of one
        after the other; this one has more."""
        return (layer for name, layer in self.named_children() if name != "semiconv")

    def forward(
        self, x: Tensor, instances: list[Instances], embeddings: Tensor | None = None
    ) -> dict[str, Tensor] | list[Instances]:
        """Masks of B regions.

        Args:
            x: pooled features (B, C, S, S), in the order of the instances.
            instances: in training with ``proposal_boxes``, ``gt_classes`` and ``gt_masks``, otherwise with
                ``pred_boxes`` and ``pred_classes``.
            embeddings: Phi of the regions, (B, D, 2S, 2S); None: predicted from ``x``.

        Returns:
            In training ``loss_mask`` and ``loss_kernel``, otherwise the instances with ``pred_masks``.
        """
        boxes = cat([i.proposal_boxes.tensor if self.training else i.pred_boxes.tensor for i in instances])
        classes = cat([i.gt_classes if self.training else i.pred_classes for i in instances])
        own, log_kernel = self.parts(x, boxes, classes, embeddings)
        logits = (own + log_kernel)[:, None]
        if not self.training:
            mask_rcnn_inference(logits, instances)
            return instances
        if hasattr(self.semiconv["kernel"], "log_sigma"):
            get_event_storage().put_scalar("semiconv/sigma", self.semiconv["kernel"].log_sigma.exp().item())
        return {
            "loss_mask": mask_rcnn_loss(logits, instances, self.vis_period) * self.loss_weight,
            "loss_kernel": kernel_loss(log_kernel, instances) * self.kernel_loss_weight,
        }

    def parts(
        self, x: Tensor, boxes: Tensor, classes: Tensor, embeddings: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The two summands of the mask's logits: Mask R-CNN's own at each region's category (B,), and the kernel's
        logarithm; float32 (B, 2S, 2S) each."""
        logits = self.layers(x)
        column = torch.zeros_like(classes) if logits.shape[1] == 1 else classes
        own = logits[torch.arange(len(logits), device=logits.device), column].float()
        if embeddings is None:
            phi = self.semiconv["predictor"](x)
            embeddings = F.interpolate(phi, own.shape[-2:], mode="bilinear", align_corners=False)
        seed = soft_seed if self.training else self.seed
        with torch.autocast(own.device.type, enabled=False):  # places of large images need float32, also in a mean
            psi = self.semiconv["operator"].on_boxes(embeddings, boxes.float())
            return own, self.semiconv["kernel"](seed(own, psi), psi)


def kernel_loss(log_kernel: Tensor, instances: list[Instances]) -> Tensor:
    """Binary cross-entropy between K and the instances' masks, a mean over all cells of all regions.

    Args:
        log_kernel: log K (B, S, S), at most 0.
        instances: one an image, B in all, with ``proposal_boxes`` and ``gt_masks``.
    """
    present = [i for i in instances if len(i)]
    if not present:
        return zero_with_grad([log_kernel])
    size = log_kernel.shape[-1]
    wanted = cat([i.gt_masks.crop_and_resize(i.proposal_boxes.tensor, size).to(log_kernel.device) for i in present])
    other = torch.log1p(-(1 - _NEVER_SURE) * log_kernel.exp())
    return -torch.where(wanted, log_kernel, other).mean()
