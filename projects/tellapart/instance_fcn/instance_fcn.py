"""The meta-architecture: proposals over several scales, and what follows them."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, paste_masks_in_image
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn
from torch.nn import functional as F

from ..errors import InputError
from ..masks import tight_boxes
from .proposals import InstanceFCNProposals


@ROI_HEADS_REGISTRY.register()
class NoClassifier(nn.Module):
    """Stands where ROI heads would: the proposals are the result, and there is nothing to learn."""

    def __init__(self, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> None:
        super().__init__()

    def forward(self, images, features, proposals: list[Instances], targets=None) -> tuple[list[Instances], dict]:
        """The proposals as they came, and no losses."""
        return proposals, {}


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
            InputError: ``MODEL.MASK_ON`` is off, other parts are named, or there are no scales.
        """
        if not cfg.MODEL.MASK_ON:
            raise InputError("MODEL.MASK_ON is False, but InstanceFCN learns from masks: set it to True")
        for section, part in (("PROPOSAL_GENERATOR", InstanceFCNProposals), ("ROI_HEADS", NoClassifier)):
            if part.__name__ != cfg.MODEL[section].NAME:
                raise InputError(f"MODEL.{section}.NAME is {cfg.MODEL[section].NAME}, wanted {part.__name__}")
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
            ``proposal_boxes``, ``objectness_logits``, ``scores``, ``pred_classes`` (0), ``pred_masks`` bool (N, H, W).
        """
        if detected_instances is not None:
            raise NotImplementedError("InstanceFCN finds masks and boxes together: it takes no detected_instances")
        images = self.preprocess_image(batched_inputs)
        per_scale = [self._propose_at(images, scale) for scale in self.scales]
        results = []
        for inputs, size, found in zip(batched_inputs, images.image_sizes, zip(*per_scale)):
            merged = Instances.cat(list(found)) if len(found) > 1 else found[0]
            if len(found) > 1:
                merged = self.proposal_generator.choose(
                    merged.windows, merged.objectness_logits, merged.window_masks, size
                )
            if do_postprocess:
                size = inputs.get("height", size[0]), inputs.get("width", size[1])
            results.append(in_image(merged, size))
        return [{"instances": result} for result in results] if do_postprocess else results

    def _propose_at(self, images: ImageList, scale: float) -> list[Instances]:
        """The proposals found in the images resized by ``scale``, in pixels of the images as they came."""
        if scale == 1.0:
            found, _ = self.proposal_generator(images, self.backbone(images.tensor), None)
            return found
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
    result.pred_classes = torch.zeros_like(found.scores, dtype=torch.int64)
    result.pred_masks = masks
    return result[result.pred_boxes.nonempty()]
