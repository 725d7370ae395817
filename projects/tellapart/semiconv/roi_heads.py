"""Mask R-CNN's RoI heads with embeddings of the whole image (section 3.4)."""

from __future__ import annotations

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    StandardROIHeads,
    select_foreground_proposals,
)
from detectron2.structures import ImageList, Instances
from torch import Tensor

from ..embeddings.losses import embedding_loss, gt_bit_masks, sample_gt_masks
from ..embeddings.options import check_options
from ..embeddings.predictor import EmbeddingPredictor
from ..errors import InputError
from ..validation import registry_name_is_a
from .image_masks import EmbeddingMap
from .mask_head import SemiConvMaskHead


@ROI_HEADS_REGISTRY.register()
class SemiConvROIHeads(StandardROIHeads):
    """``StandardROIHeads`` that predict an embedding Phi for every pixel of the image.

    One predictor, shared by all levels, computes Phi. The mask head receives the RoI-pooled embeddings. The image-level
    embedding loss pulls the embeddings of each instance together over the whole image.

    Args:
        embedding_predictor: feature map of a level to Phi.
        embedding_pooler: RoI pooler for Phi, with the resolution of the masks. None for masks at the resolution of the
            image, which use the finest level alone.
        embedding_strides: stride per level that has embeddings, the finest first, in input pixels.
        embedding_loss_weight: factor on ``loss_embedding``.
        **kwargs: arguments of ``StandardROIHeads``. ``mask_head`` must be a ``SemiConvMaskHead``.
    """

    @configurable
    def __init__(
        self, *, embedding_predictor: EmbeddingPredictor, embedding_pooler: ROIPooler | None,
        embedding_strides: list[int], embedding_loss_weight: float, **kwargs,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.embedding_predictor, self.embedding_pooler = embedding_predictor, embedding_pooler
        self.embedding_strides, self.embedding_loss_weight = embedding_strides, embedding_loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Return the constructor's arguments from ``cfg.MODEL.SEMICONV`` and those of ``StandardROIHeads``.

        Raises:
            InputError: masks are off, the mask head is not a ``SemiConvMaskHead``, it has no pooler, or
                ``cfg.MODEL.SEMICONV`` has a wrong value.
        """
        options = cfg.MODEL.ROI_MASK_HEAD
        is_semiconv_head = registry_name_is_a(ROI_MASK_HEAD_REGISTRY, options.NAME, SemiConvMaskHead)
        if not cfg.MODEL.MASK_ON or not is_semiconv_head or not options.POOLER_TYPE:
            raise InputError(
                f"MODEL.MASK_ON is {cfg.MODEL.MASK_ON}, MODEL.ROI_MASK_HEAD.NAME {options.NAME!r} and its POOLER_TYPE "
                f"{options.POOLER_TYPE!r}, but SemiConvROIHeads needs True, 'SemiConvMaskHead' and a pooler"
            )
        semiconv_options = check_options(cfg)
        arguments = super().from_config(cfg, input_shape)
        shapes = [input_shape[name] for name in arguments["mask_in_features"]]
        if semiconv_options.MASK_RESOLUTION == "image":
            arguments["embedding_pooler"], shapes = None, shapes[:1]
        return {
            **arguments,
            "embedding_predictor": EmbeddingPredictor(cfg, shapes[0].channels),
            "embedding_strides": [shape.stride for shape in shapes],
            "embedding_loss_weight": semiconv_options.EMBEDDING_LOSS_WEIGHT,
        }

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Build the poolers and a mask head to which the embeddings are given, for ``from_config`` of the base class.

        The embeddings are pooled at twice the resolution of the features, which is that of the masks.
        """
        options, in_features = cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.ROI_HEADS.IN_FEATURES
        resolution = options.POOLER_RESOLUTION
        scales = [1.0 / input_shape[name].stride for name in in_features]
        mask_pooler, embedding_pooler = (
            ROIPooler(size, scales, options.POOLER_SAMPLING_RATIO, options.POOLER_TYPE)
            for size in (resolution, 2 * resolution)
        )
        pooled_shape = ShapeSpec(channels=input_shape[in_features[0]].channels, height=resolution, width=resolution)
        mask_head_class = ROI_MASK_HEAD_REGISTRY.get(options.NAME)
        return {
            "mask_in_features": in_features,
            "mask_pooler": mask_pooler,
            "mask_head": mask_head_class(cfg, pooled_shape, predict_embeddings=False),
            "embedding_pooler": embedding_pooler,
        }

    def embed(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Predict Phi, float (N, D, Hi, Wi), on each level that the mask head pools from, or on the finest one."""
        names = self.mask_in_features[: len(self.embedding_strides)]
        return [self.embedding_predictor(features[name]) for name in names]

    def forward(
        self, images: ImageList, features: dict[str, Tensor], proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:  # fmt: skip
        """Run the heads as in ``StandardROIHeads``, in training with ``loss_kernel`` and ``loss_embedding`` added."""
        if not self.training:
            return super().forward(images, features, proposals, targets)
        embeddings = self.embed(features)
        sampled_proposals, losses = super().forward(images, features, proposals, targets)
        losses.update(self.mask_branch(features, embeddings, sampled_proposals))
        losses["loss_embedding"] = self.image_level_loss(embeddings, targets)
        return sampled_proposals, losses

    def image_level_loss(self, embeddings: list[Tensor], targets: list[Instances]) -> Tensor:
        """Compute the weighted embedding loss of equation 5 over all instances and levels.

        An instance counts on each level on which it covers at least two pixels.

        Args:
            embeddings: Phi per level, float (N, D, Hi, Wi).
            targets: per image, with ``gt_masks``.
        """
        bit_masks = [gt_bit_masks(image_targets) for image_targets in targets]
        masks_per_level = [
            [
                sample_gt_masks(gt_masks, stride, phi.shape[-2:]).to(phi.device, non_blocking=True)
                for gt_masks in bit_masks
            ]
            for stride, phi in zip(self.embedding_strides, embeddings)
        ]
        operator = self.mask_head.semiconv["operator"]
        psi = [operator(phi, stride) for phi, stride in zip(embeddings, self.embedding_strides)]
        return embedding_loss(psi, masks_per_level) * self.embedding_loss_weight

    def mask_branch(
        self, features: dict[str, Tensor], embeddings: list[Tensor], instances: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        """Pool the features and the embeddings of each instance, and run the mask head on both.

        Args:
            features: feature maps by name.
            embeddings: Phi per level, see :meth:`embed`.
            instances: per image. In training the sampled proposals, whose foreground is used, otherwise detections.

        Returns:
            See :meth:`SemiConvMaskHead.forward`.
        """
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        boxes = [i.proposal_boxes if self.training else i.pred_boxes for i in instances]
        pooled = self.mask_pooler([features[name] for name in self.mask_in_features], boxes)
        if self.embedding_pooler is None:
            return self.mask_head(pooled, instances, self._embedding_map(embeddings))
        return self.mask_head(pooled, instances, self.embedding_pooler(embeddings, boxes))

    def _embedding_map(self, embeddings: list[Tensor]) -> EmbeddingMap:
        return EmbeddingMap(embeddings[0], self.embedding_strides[0], self.mask_head.semiconv["operator"])

    def explain_regions(self, features: dict[str, Tensor], detections: Instances) -> tuple[Tensor, Tensor, Tensor]:
        """Return the summands of the mask logits of one image's detections, and Psi, on the grid over each box.

        Args:
            features: feature maps of the image by name.
            detections: with ``pred_boxes`` and ``pred_classes``, in input pixels.

        Returns:
            Mask R-CNN's own logits s (B, S, S), Psi (B, D, S, S) and log K (B, S, S), float32.
        """
        head, boxes, classes = self.mask_head, detections.pred_boxes, detections.pred_classes
        pooled, embeddings = (
            self.mask_pooler([features[f] for f in self.mask_in_features], [boxes]),
            self.embed(features),
        )
        if self.embedding_pooler is None:
            embedding_map, counts = self._embedding_map(embeddings), [len(boxes)]
            logits, seeds = head.logits_and_seeds(pooled, boxes.tensor, classes, embedding_map, counts)
            psi = embedding_map.on_boxes(boxes.tensor, counts, logits.shape[-1])
            return logits, psi, head.semiconv["kernel"](seeds, psi)
        phi = self.embedding_pooler(embeddings, [boxes]).float()
        logits, log_kernel = head.logits_and_log_kernel(pooled, boxes.tensor, classes, phi)
        return logits, head.semiconv["operator"].on_boxes(phi, boxes.tensor), log_kernel

    def _forward_mask(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        """Predict masks where the base class does so.

        In training this returns no losses: :meth:`forward` runs the mask branch itself, because the mask branch and the
        image-level loss use the same embeddings.
        """
        return {} if self.training else self.mask_branch(features, self.embed(features), instances)
