"""The InstanceFCN meta-architecture: mask proposals from an image pyramid, and an optional classifier of them.

Where the parts of the paper's section 3 are:

* instance-sensitive score maps and the instance assembling module (3.1): ``heads.InstanceSensitiveHead``;
* objectness score map, loss (equation 1) and NMS (3.3): ``proposals.InstanceFCNProposals``;
* which windows are positive (3.3): ``windows``;
* inference at several image scales (3.3): this module.
"""

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
    """Instance-sensitive fully convolutional networks (Dai et al., ECCV 2016): class-agnostic mask proposals.

    Both branches read one feature map of any stride (conv5 of VGG-16 with stride 8 in the paper) or, if
    ``MODEL.INSTANCE_FCN.IN_FEATURES`` names several, all levels of a feature pyramid.

    Args:
        image_scales: factors by which the input image is resized. The proposals of all scales go through one NMS. The
            paper uses six scales.
        **kwargs: arguments of ``GeneralizedRCNN``; ``proposal_generator`` must be an ``InstanceFCNProposals``.
    """

    @configurable
    def __init__(self, *, image_scales: tuple[float, ...], **kwargs) -> None:
        super().__init__(**kwargs)
        self.image_scales = image_scales

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read the arguments from the config.

        Raises:
            InputError: the proposal generator or the ROI heads are not InstanceFCN's, or a scale is missing or not
                positive.
        """
        for section, registry, *expected in (
            ("PROPOSAL_GENERATOR", PROPOSAL_GENERATOR_REGISTRY, InstanceFCNProposals),
            ("ROI_HEADS", ROI_HEADS_REGISTRY, PassThroughROIHeads, MaskPooledROIHeads),
        ):
            name = cfg.MODEL[section].NAME
            if not registry_name_is_a(registry, name, *expected):
                names = " or ".join(module.__name__ for module in expected)
                raise InputError(f"MODEL.{section}.NAME is {name}, expected {names} for META_ARCHITECTURE InstanceFCN")
        image_scales = tuple(cfg.MODEL.INSTANCE_FCN.TEST_SCALES)
        if not image_scales or min(image_scales) <= 0:
            raise InputError(
                f"MODEL.INSTANCE_FCN.TEST_SCALES is {image_scales}, expected one or more factors greater than 0"
            )
        return {**super().from_config(cfg), "image_scales": image_scales}

    def inference(
        self, batched_inputs: list[dict], detected_instances: None = None, do_postprocess: bool = True
    ) -> list[dict] | list[Instances]:
        """Propose masks.

        Args:
            batched_inputs: one dict per image: ``image`` (C, H, W), and optionally ``height`` and ``width`` of the
                output.
            detected_instances: not supported, since InstanceFCN predicts masks and boxes together.
            do_postprocess: whether masks and boxes are in the output size; otherwise they are in the input size.

        Returns:
            Per image ``{"instances": Instances}``, or the ``Instances`` alone without postprocessing. Fields:
            ``pred_masks`` bool (N, H, W); ``pred_boxes``, the tight boxes around them, also as ``proposal_boxes``;
            ``objectness_logits``; ``scores``, class probabilities with a classifier, otherwise proposal scores;
            ``pred_classes``, all 0 without a classifier.

        Raises:
            NotImplementedError: ``detected_instances`` is given.
        """
        if detected_instances is not None:
            raise NotImplementedError(
                "InstanceFCN takes no detected_instances: it predicts masks and boxes together; pass None"
            )
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        per_scale = [self._propose_at_scale(images, features, scale) for scale in self.image_scales]
        proposals = per_scale[0]
        if len(per_scale) > 1:
            all_scales = [Instances.cat(list(of_one_image)) for of_one_image in zip(*per_scale)]
            proposals = [
                self.proposal_generator.nms_proposals(p.window_boxes, p.objectness_logits, p.window_masks, size)
                for p, size in zip(all_scales, images.image_sizes)
            ]
        detections, _ = self.roi_heads(images, features, proposals, None)
        if not do_postprocess:
            return [paste_window_masks(d, d.image_size) for d in detections]
        results = []
        for inputs, d in zip(batched_inputs, detections):
            height, width = d.image_size
            output_size = (inputs.get("height", height), inputs.get("width", width))
            results.append({"instances": paste_window_masks(d, output_size)})
        return results

    def _propose_at_scale(self, images: ImageList, features: dict[str, Tensor], image_scale: float) -> list[Instances]:
        """Propose in the images resized by a factor.

        Args:
            images: N images.
            features: the backbone's features of the images, used if the factor is 1.
            image_scale: the factor.

        Returns:
            The proposals per image, in pixels of the images before resizing.
        """
        if image_scale == 1.0:
            return self.proposal_generator(images, features, None)[0]
        resized = []
        for image, (height, width) in zip(images.tensor, images.image_sizes):
            size = max(1, round(height * image_scale)), max(1, round(width * image_scale))
            unpadded = image[None, :, :height, :width]
            resized.append(F.interpolate(unpadded, size, mode="bilinear", align_corners=False, antialias=True)[0])
        scaled_images = ImageList.from_tensors(
            resized, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )
        proposals, _ = self.proposal_generator(scaled_images, self.backbone(scaled_images.tensor), None)
        return [rescale_proposals(p, size) for p, size in zip(proposals, images.image_sizes)]


def rescale_proposals(proposals: Instances, image_size: tuple[int, int]) -> Instances:
    """Scale the boxes of proposals to an image of another size.

    Args:
        proposals: as returned by ``InstanceFCNProposals.nms_proposals``.
        image_size: new (height, width).

    Returns:
        The same proposals with scaled ``proposal_boxes`` and ``window_boxes``.
    """
    height, width = proposals.image_size
    factors = [image_size[1] / width, image_size[0] / height] * 2
    factors = torch.tensor(factors, device=proposals.objectness_logits.device)
    result = Instances(image_size, **proposals.get_fields())
    result.proposal_boxes = Boxes(proposals.proposal_boxes.tensor * factors)
    result.window_boxes = Boxes(proposals.window_boxes.tensor * factors)
    return result


def paste_window_masks(detections: Instances, image_size: tuple[int, int]) -> Instances:
    """Convert proposals or detections to the fields that Detectron2's evaluators and visualizers read.

    Args:
        detections: the fields of ``InstanceFCNProposals.nms_proposals`` and, after a classifier, ``scores`` and
            ``pred_classes``.
        image_size: (height, width) of the output.

    Returns:
        The fields listed in :meth:`InstanceFCN.inference`. Instances without a pixel in the image are removed.
    """
    detections = rescale_proposals(detections, image_size)
    masks = paste_masks_in_image(detections.window_masks, detections.window_boxes, image_size, threshold=0.5)
    masks = masks.to(torch.bool)
    result = Instances(image_size)
    result.pred_boxes = result.proposal_boxes = tight_boxes(masks)
    result.objectness_logits = detections.objectness_logits
    if detections.has("pred_classes"):
        result.scores, result.pred_classes = detections.scores, detections.pred_classes
    else:
        result.scores = detections.proposal_scores
        result.pred_classes = torch.zeros_like(result.scores, dtype=torch.int64)
    result.pred_masks = masks
    return result[result.pred_boxes.nonempty()]
