"""Mask R-CNN's mask head with a semi-convolutional kernel (section 3.4, equations 8 to 10)."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY, MaskRCNNConvUpsampleHead
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference, mask_rcnn_loss
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn import functional as F

from ..autograd import zero_with_grad
from ..embeddings.kernels import KERNEL_REGISTRY, SEED_FUNCTIONS, soft_seed
from ..embeddings.operator import SemiConv
from ..embeddings.options import check_options
from ..embeddings.predictor import EmbeddingPredictor
from ..errors import InputError
from ..loss_share import loss_share
from .image_masks import (
    NUM_CANDIDATES,
    EmbeddingMap,
    ImageMasks,
    masks_at,
    most_uncertain,
    random_pixels,
    sample_grids,
)

_MIN_ONE_MINUS_K = 0.01  # lower bound on 1 - K, which keeps kernel_loss and its gradient finite


@ROI_MASK_HEAD_REGISTRY.register()
class SemiConvMaskHead(MaskRCNNConvUpsampleHead):
    """Mask R-CNN's mask head with logits s(u) + log K(Psi_s, Psi_u) instead of s(u).

    The kernel K compares the embedding of each pixel u of a region with the embedding of the region's seed. The
    parameters of the base class keep their names, so that a Mask R-CNN checkpoint can be loaded.

    Under ``SemiConvROIHeads`` this is the paper's mask head: the embeddings are pooled from maps of the whole image and
    given to :meth:`forward`. Under any other RoI heads, the head predicts Phi from each region's pooled features and
    adds the coordinates of the region's cells. The embeddings of an instance then agree within one region only, and
    there is no image-level embedding loss.

    Args:
        input_shape: shape of the pooled features.
        semiconv: the operator.
        kernel: module of ``KERNEL_REGISTRY``.
        embedding_predictor: pooled features to Phi. None if the embeddings are given to :meth:`forward`.
        seed: "soft" or "hard", the seed at inference. In training it is always soft.
        kernel_loss_weight: factor on ``loss_kernel``.
        **kwargs: arguments of ``MaskRCNNConvUpsampleHead``.
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, semiconv: SemiConv, kernel: nn.Module,
        embedding_predictor: EmbeddingPredictor | None, seed: str, kernel_loss_weight: float, **kwargs,
    ) -> None:  # fmt: skip
        super().__init__(input_shape, **kwargs)
        self._mask_rcnn_layers = [name for name, _ in self.named_children()]
        self.semiconv = nn.ModuleDict({"operator": semiconv, "kernel": kernel})
        if embedding_predictor is not None:
            self.semiconv["predictor"] = embedding_predictor
        self.inference_seed, self.kernel_loss_weight = SEED_FUNCTIONS[seed], kernel_loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec, predict_embeddings: bool = True) -> dict:
        """Return the constructor's arguments from ``cfg.MODEL.SEMICONV`` and ``cfg.MODEL.ROI_MASK_HEAD``.

        Args:
            cfg: the config.
            input_shape: shape of the pooled features.
            predict_embeddings: False for RoI heads that give the embeddings to :meth:`forward`. A subclass that
                overrides this method must accept this argument to work under ``SemiConvROIHeads``.

        Raises:
            InputError: names the first key with a wrong value, the value, and what is expected.
        """
        options = check_options(cfg)
        if predict_embeddings and options.MASK_RESOLUTION == "image":
            raise InputError(
                "MODEL.SEMICONV.MASK_RESOLUTION is 'image', which needs embeddings of the whole image: set "
                f"MODEL.ROI_HEADS.NAME to SemiConvROIHeads (it is {cfg.MODEL.ROI_HEADS.NAME})"
            )
        return {
            **super().from_config(cfg, input_shape),
            "semiconv": SemiConv(options.PIXELS_PER_UNIT, options.MIXING),
            "kernel": KERNEL_REGISTRY.get(options.KERNEL)(options.SIGMA),
            "embedding_predictor": EmbeddingPredictor(cfg, input_shape.channels) if predict_embeddings else None,
            "seed": options.SEED,
            "kernel_loss_weight": options.KERNEL_LOSS_WEIGHT,
        }

    def layers(self, x: Tensor) -> Tensor:
        """Map pooled features (B, C, S, S) to Mask R-CNN's own logits (B, num_classes, 2S, 2S).

        The base class is an ``nn.Sequential`` that runs all of its children. ``semiconv`` is not one of these layers.
        """
        for name in self._mask_rcnn_layers:
            x = self.get_submodule(name)(x)
        return x

    def forward(
        self, x: Tensor, instances: list[Instances], embeddings: Tensor | EmbeddingMap | None = None
    ) -> dict[str, Tensor] | list[Instances]:
        """Predict the masks of B regions, or compute their losses.

        Args:
            x: pooled features, float (B, C, S, S), in the order of the instances.
            instances: per image. In training with ``proposal_boxes``, ``gt_classes`` and ``gt_masks``, otherwise with
                ``pred_boxes`` and ``pred_classes``.
            embeddings: Phi of the regions, float (B, D, 2S, 2S). None: predict them from ``x``. An ``EmbeddingMap``:
                masks at the resolution of the image.

        Returns:
            In training ``loss_mask``, Mask R-CNN's loss on the new logits, and ``loss_kernel``, see
            :func:`kernel_loss`, both as means over the regions of all processes. Otherwise the instances with
            ``pred_masks``.
        """
        boxes = cat([i.proposal_boxes.tensor if self.training else i.pred_boxes.tensor for i in instances])
        classes = cat([i.gt_classes if self.training else i.pred_classes for i in instances])
        if self.training and hasattr(self.semiconv["kernel"], "log_sigma"):
            get_event_storage().put_scalar("semiconv/sigma", self.semiconv["kernel"].log_sigma.exp().item())
        if isinstance(embeddings, EmbeddingMap):
            logits, seeds = self.logits_and_seeds(x, boxes, classes, embeddings, [len(i) for i in instances])
            if self.training:
                return self.image_losses(logits, seeds, embeddings, instances)
            return self.image_masks(logits, seeds, embeddings, instances)
        logits, log_kernel = self.logits_and_log_kernel(x, boxes, classes, embeddings)
        mask_logits = (logits + log_kernel)[:, None]
        if not self.training:
            mask_rcnn_inference(mask_logits, instances)
            return instances
        mask_loss = mask_rcnn_loss(mask_logits, instances, self.vis_period)
        return self._weighted(mask_loss, kernel_loss(log_kernel, instances), len(boxes))

    def _weighted(self, mask_loss: Tensor, kernel_loss: Tensor, num_regions: int) -> dict[str, Tensor]:
        share = loss_share(num_regions, mask_loss)
        return {
            "loss_mask": mask_loss * self.loss_weight * share,
            "loss_kernel": kernel_loss * self.kernel_loss_weight * share,
        }

    def logits_and_seeds(
        self, x: Tensor, boxes: Tensor, classes: Tensor, embeddings: EmbeddingMap, counts: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Compute s and the seeds, from the embeddings at the centers of the regions' cells.

        Args:
            x, boxes, classes: see :meth:`logits_and_log_kernel`.
            embeddings: of the batch.
            counts: number of regions of each image.

        Returns:
            s, float32 (B, 2S, 2S), and Psi_s, float32 (B, D).
        """
        logits = self._logits_of_class(x, classes)
        with torch.autocast(logits.device.type, enabled=False):
            psi = embeddings.on_boxes(boxes.float(), counts, logits.shape[-1])
            seed_function = soft_seed if self.training else self.inference_seed
            return logits, seed_function(logits, psi)

    def image_masks(
        self, logits: Tensor, seeds: Tensor, embeddings: EmbeddingMap, instances: list[Instances]
    ) -> list[Instances]:
        """Set ``pred_masks`` of each image to masks that are computed at the resolution of the output."""
        counts = [len(i) for i in instances]
        for image, image_logits, image_seeds, phi in zip(
            instances, logits.split(counts), seeds.split(counts), embeddings.phi.split(1)
        ):
            of_image = EmbeddingMap(phi, embeddings.stride, embeddings.operator)
            boxes = image.pred_boxes.tensor.clone()  # which postprocessing scales in place
            image.pred_masks = ImageMasks(
                image_logits, boxes, image_seeds, of_image, self.semiconv["kernel"], image.image_size
            )
        return instances

    def image_losses(
        self, logits: Tensor, seeds: Tensor, embeddings: EmbeddingMap, instances: list[Instances]
    ) -> dict[str, Tensor]:
        """Compute both losses at as many sampled pixels of each region as it has cells."""
        if not len(logits):
            zero = zero_with_grad([logits, seeds, embeddings.phi, *self.semiconv["kernel"].parameters()])
            return self._weighted(zero, zero, 0)
        num_points = logits[0].numel()
        boxes_per_image = [i.proposal_boxes.tensor for i in instances]
        boxes, counts = torch.cat(boxes_per_image), [len(i) for i in instances]
        sizes = [i.image_size for i in instances]

        def parts_at(points: list[Tensor]) -> tuple[Tensor, Tensor]:
            psi = embeddings.at(points)
            log_kernel = self.semiconv["kernel"](seeds, psi[:, :, None])[:, 0]
            return sample_grids(logits, boxes, torch.cat(points)), log_kernel

        with torch.autocast(logits.device.type, enabled=False):
            with torch.no_grad():
                candidates = [random_pixels(b, NUM_CANDIDATES * num_points, s) for b, s in zip(boxes_per_image, sizes)]
                points = most_uncertain(sum(parts_at(candidates)), torch.cat(candidates), num_points).split(counts)
                gt_masks = masks_at(instances, points)
            own_logits, log_kernel = parts_at(points)
            mask_logits = own_logits + log_kernel
            mask_loss = F.binary_cross_entropy_with_logits(mask_logits, gt_masks.float())
            return self._weighted(mask_loss, cross_entropy_of_kernel(log_kernel, gt_masks), len(boxes))

    def logits_and_log_kernel(
        self, x: Tensor, boxes: Tensor, classes: Tensor, embeddings: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the two summands of the mask logits.

        Args:
            x: pooled features, float (B, C, S, S).
            boxes: the regions, float (B, 4), XYXY in input pixels.
            classes: class of each region, whose logits are used, int64 (B,).
            embeddings: Phi of the regions, float (B, D, 2S, 2S). None: predict them from ``x``.

        Returns:
            Mask R-CNN's own logits s and log K, both float32 (B, 2S, 2S).
        """
        logits = self._logits_of_class(x, classes)
        if embeddings is None:
            phi = self.semiconv["predictor"](x)
            embeddings = F.interpolate(phi, logits.shape[-2:], mode="bilinear", align_corners=False)
        seed_function = soft_seed if self.training else self.inference_seed
        with torch.autocast(logits.device.type, enabled=False):  # coordinates in large images need float32
            psi = self.semiconv["operator"].on_boxes(embeddings, boxes.float())
            return logits, self.semiconv["kernel"](seed_function(logits, psi), psi)

    def _logits_of_class(self, x: Tensor, classes: Tensor) -> Tensor:
        class_logits = self.layers(x)
        channel_index = torch.zeros_like(classes) if class_logits.shape[1] == 1 else classes
        return class_logits[torch.arange(len(class_logits), device=class_logits.device), channel_index].float()


def kernel_loss(log_kernel: Tensor, instances: list[Instances]) -> Tensor:
    """Compute the mean binary cross-entropy between K(Psi_s, Psi_u) and the ground-truth masks over all cells.

    Args:
        log_kernel: log K of B regions, float (B, S, S), at most 0.
        instances: per image, B in total, with ``proposal_boxes`` and ``gt_masks``.

    Returns:
        Scalar. Without regions it is 0 and its gradient is 0.
    """
    instances = [i for i in instances if len(i)]
    if not instances:
        return zero_with_grad([log_kernel])
    size = log_kernel.shape[-1]
    cropped = [i.gt_masks.crop_and_resize(i.proposal_boxes.tensor, size) for i in instances]
    gt_masks = cat([masks.to(log_kernel.device) for masks in cropped])
    return cross_entropy_of_kernel(log_kernel, gt_masks)


def cross_entropy_of_kernel(log_kernel: Tensor, gt_masks: Tensor) -> Tensor:
    """Return the mean binary cross-entropy between K and bool masks of the same shape."""
    log_one_minus_kernel = torch.log1p(-(1 - _MIN_ONE_MINUS_K) * log_kernel.exp())
    return -torch.where(gt_masks, log_kernel, log_one_minus_kernel).mean()
