"""Mask R-CNN with embeddings of the whole image (section 3.4)."""

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

from ..embeddings.losses import bit_masks, embedding_loss, masks_on_map
from ..embeddings.options import check_options
from ..embeddings.predictor import EmbeddingPredictor
from ..errors import InputError
from ..validation import registry_name_is_a
from .mask_head import SemiConvMaskHead

_EMBEDDINGS = "semiconv embeddings"  # where forward() leaves them among the features for the mask branch


@ROI_HEADS_REGISTRY.register()
class SemiConvROIHeads(StandardROIHeads):
    """``StandardROIHeads`` with an embedding Phi of the image, predicted on all levels by one network; the mask head
    gets its cuttings and the image-level loss ties each instance together over the whole image.

    Args:
        embedding_predictor: features of a level to Phi.
        embedding_pooler: cuts Phi to regions, in the masks' resolution.
        embedding_strides: input pixels a pixel of each level.
        embedding_loss_weight: factor on ``loss_embedding``.
        other arguments: of ``StandardROIHeads``; ``mask_head`` must be a ``SemiConvMaskHead``.
    """

    gives_embeddings = True  # the mask head need not predict its own

    @configurable
    def __init__(
        self, *, embedding_predictor: EmbeddingPredictor, embedding_pooler: ROIPooler,
        embedding_strides: list[int], embedding_loss_weight: float, **kwargs,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.embedding_predictor, self.embedding_pooler = embedding_predictor, embedding_pooler
        self.embedding_strides, self.embedding_loss_weight = embedding_strides, embedding_loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Arguments out of ``cfg.MODEL.SEMICONV`` and those of ``StandardROIHeads``.

        Raises:
            InputError: another mask head, no masks, or no pooler.
        """
        options = cfg.MODEL.ROI_MASK_HEAD
        fits = registry_name_is_a(ROI_MASK_HEAD_REGISTRY, options.NAME, SemiConvMaskHead)
        if not cfg.MODEL.MASK_ON or not fits or not options.POOLER_TYPE:
            raise InputError(
                f"MODEL.MASK_ON is {cfg.MODEL.MASK_ON}, MODEL.ROI_MASK_HEAD.NAME {options.NAME}, its POOLER_TYPE "
                f"{options.POOLER_TYPE!r}; SemiConvROIHeads wants True, SemiConvMaskHead and a pooler"
            )
        semiconv = check_options(cfg)
        made = super().from_config(cfg, input_shape)
        shapes = [input_shape[name] for name in made["mask_in_features"]]
        scales = [1.0 / shape.stride for shape in shapes]
        sizes = 2 * options.POOLER_RESOLUTION, scales, options.POOLER_SAMPLING_RATIO, options.POOLER_TYPE
        return {
            **made,
            "embedding_predictor": EmbeddingPredictor.from_cfg(cfg, shapes[0].channels),
            "embedding_pooler": ROIPooler(*sizes),
            "embedding_strides": [shape.stride for shape in shapes],
            "embedding_loss_weight": semiconv.EMBEDDING_LOSS_WEIGHT,
        }

    def embed(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Phi (N, D, Hi, Wi) of each of the mask branch's levels."""
        return [self.embedding_predictor(features[name]) for name in self.mask_in_features]

    def forward(
        self, images: ImageList, features: dict[str, Tensor], proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:  # fmt: skip
        """See ``StandardROIHeads``; in training ``loss_embedding`` and ``loss_kernel`` as well."""
        if not self.training:
            return super().forward(images, features, proposals, targets)
        embeddings = self.embed(features)
        found, losses = super().forward(images, {**features, _EMBEDDINGS: embeddings}, proposals, targets)
        losses["loss_embedding"] = self.image_level_loss(embeddings, targets)
        return found, losses

    def image_level_loss(self, embeddings: list[Tensor], targets: list[Instances]) -> Tensor:
        """Equation 5 over all instances, each on every level on which it has two pixels; weighted."""
        masks = [[] for _ in embeddings]
        for drawn in map(bit_masks, targets):  # once, not for every level
            for stride, phi, found in zip(self.embedding_strides, embeddings, masks):
                found.append(masks_on_map(drawn, stride, phi.shape[-2:]).to(phi.device))
        operator = self.mask_head.semiconv["operator"]
        psi = [operator(phi, stride) for phi, stride in zip(embeddings, self.embedding_strides)]
        return embedding_loss(psi, masks) * self.embedding_loss_weight

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> dict | list[Instances]:
        """The mask branch, as the base class calls it; the mask head gets the regions' embeddings too."""
        embeddings = features[_EMBEDDINGS] if _EMBEDDINGS in features else self.embed(features)
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        boxes = [i.proposal_boxes if self.training else i.pred_boxes for i in instances]
        pooled = self.mask_pooler([features[name] for name in self.mask_in_features], boxes)
        return self.mask_head(pooled, instances, self.embedding_pooler(embeddings, boxes))
