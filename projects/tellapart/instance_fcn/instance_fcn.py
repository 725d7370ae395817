"""The meta-architecture: proposals over several scales, and what follows them."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..masks import tight_boxes
from ..validation import registry_name_is_a
from .classifier import MaskPooledROIHeads, PassThroughROIHeads
from .proposals import InstanceFCNProposals


@META_ARCH_REGISTRY.register()
class InstanceFCN(GeneralizedRCNN):
    """Instance-sensitive fully convolutional networks (Dai et al., ECCV 2016): class-agnostic masks of objects.

    The branches work on one feature map of any stride (the paper's is VGG-16's conv5, stride 8) or, with several
    ``MODEL.INSTANCE_FCN.IN_FEATURES``, on all levels of a pyramid.

    Args:
        scales: factors on the input image; the proposals of all of them go through one NMS (the paper's six).
        other arguments: of ``GeneralizedRCNN``; ``proposal_generator`` must be ``InstanceFCNProposals``.
    """

    @configurable
    def __init__(self, *, scales: tuple[float, ...], **kwargs) -> None:
        super().__init__(**kwargs)
        self.scales = scales

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Arguments out of the config.

        Raises:
            InputError: other parts are named, or there are no scales.
        """
        for section, registry, *parts in (
            ("PROPOSAL_GENERATOR", PROPOSAL_GENERATOR_REGISTRY, InstanceFCNProposals),
            ("ROI_HEADS", ROI_HEADS_REGISTRY, PassThroughROIHeads, MaskPooledROIHeads),
        ):
            name = cfg.MODEL[section].NAME
            if not registry_name_is_a(registry, name, *parts):
                raise InputError(f"MODEL.{section}.NAME is {name}, wanted {' or '.join(p.__name__ for p in parts)}")
        scales = tuple(cfg.MODEL.INSTANCE_FCN.TEST_SCALES)
        if not scales or min(scales) <= 0:
            raise InputError(f"MODEL.INSTANCE_FCN.TEST_SCALES is {scales}, wanted one or more factors above 0")
        return {**super().from_config(cfg), "scales": scales}

    def inference(
        self, batched_inputs: list[dict], detected_instances: None = None, do_postprocess: bool = True
    ) -> list[dict] | list[Instances]:
        """Propose.

        Args:
            batched_inputs: one dict an image: ``image`` (C, H, W), ``height`` and ``width`` of the output wanted.
            detected_instances: not supported: InstanceFCN finds masks and boxes together.
            do_postprocess: whether the masks are made in the output's size, or in the input's.

        Returns:
            ``{"instances": ...}`` for each image, or the ``Instances``: ``pred_boxes`` (tight) and the same as
            ``proposal_boxes``, ``objectness_logits``, ``scores``, ``pred_classes`` (0 without a classifier),
            ``pred_masks`` bool (N, H, W).
        """
        if detected_instances is not None:
            raise NotImplementedError("InstanceFCN finds masks and boxes together: it takes no detected_instances")
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        per_scale = [self._propose_at(images, features, scale) for scale in self.scales]
        proposals = per_scale[0]
        if len(per_scale) > 1:
            proposals = [
                self.proposal_generator.nms_proposals(found.windows, found.objectness_logits, found.window_masks, size)
                for found, size in zip(map(_cat, zip(*per_scale)), images.image_sizes)
            ]
        found, _ = self.roi_heads(images, features, proposals, None)
        if not do_postprocess:
            return [in_image(one, one.image_size) for one in found]
        results = []
        for inputs, one in zip(batched_inputs, found):
            height, width = one.image_size
            results.append({"instances": in_image(one, (inputs.get("height", height), inputs.get("width", width)))})
        return results

    def _propose_at(self, images: ImageList, features: dict[str, Tensor], scale: float) -> list[Instances]:
        """The proposals found in the images resized by ``scale``, in pixels of the images as they came, whose features
        are given."""
        if scale == 1.0:
            return self.proposal_generator(images, features, None)[0]
        resized = []
        for image, (height, width) in zip(images.tensor, images.image_sizes):
            size = max(1, round(height * scale)), max(1, round(width * scale))
            shown = image[None, :, :height, :width]
            resized.append(F.interpolate(shown, size, mode="bilinear", align_corners=False, antialias=True)[0])
        scaled = ImageList.from_tensors(
            resized, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )
        found, _ = self.proposal_generator(scaled, self.backbone(scaled.tensor), None)
        return [rescaled(one, size) for one, size in zip(found, images.image_sizes)]


def _cat(found: tuple[Instances, ...]) -> Instances:
    return Instances.cat(list(found))


def rescaled(found: Instances, size: tuple[int, int]) -> Instances:
    """Proposals of ``choose`` in an image of another size (height, width)."""
    height, width = found.image_size
    factors = torch.tensor([size[1] / width, size[0] / height] * 2, device=found.scores.device)
    moved = Instances(size, **found.get_fields())
    moved.proposal_boxes = Boxes(found.proposal_boxes.tensor * factors)
    moved.windows = Boxes(found.windows.tensor * factors)
    return moved


def in_image(found: Instances, size: tuple[int, int]) -> Instances:
    """Proposals of ``choose`` with full-size masks, as evaluators and visualizers read them."""
    found = rescaled(found, size)
    masks = paste_masks_in_image(found.window_masks, found.windows, size, threshold=0.5).to(torch.bool)
    result = Instances(size)
    result.pred_boxes = result.proposal_boxes = tight_boxes(masks)
    result.objectness_logits, result.scores = found.objectness_logits, found.scores
    agnostic = torch.zeros_like(found.scores, dtype=torch.int64)
    result.pred_classes = found.pred_classes if found.has("pred_classes") else agnostic
    result.pred_masks = masks
    return result[result.pred_boxes.nonempty()]
