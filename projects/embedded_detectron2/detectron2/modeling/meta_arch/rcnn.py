"""Two-stage detectors, and their first stage alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from detectron2.config import configurable
from detectron2.layers import move_device_like
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage

from ..backbone import Backbone, build_backbone
from ..postprocessing import detector_postprocess
from ..proposal_generator import build_proposal_generator
from ..roi_heads import build_roi_heads
from .build import META_ARCH_REGISTRY

__all__ = ["GeneralizedRCNN", "ProposalNetwork"]


class _Detector(nn.Module):
    """A backbone, and images of a batch to normalised, padded tensors."""

    def __init__(self, backbone: Backbone, pixel_mean: tuple[float], pixel_std: tuple[float]) -> None:
        super().__init__()
        self.backbone = backbone
        if len(pixel_mean) != len(pixel_std):
            raise AssertionError(f"MODEL.PIXEL_MEAN {pixel_mean} and PIXEL_STD {pixel_std} have different shapes!")
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """The inputs' ``image``, (C, H, W) of any sizes, normalised and padded to a batch."""
        images = [move_device_like(x["image"], self.pixel_mean) for x in batched_inputs]
        images = [(x - self.pixel_mean) / self.pixel_std for x in images]
        constraints = self.backbone.padding_constraints
        return ImageList.from_tensors(images, self.backbone.size_divisibility, padding_constraints=constraints)

    def _collect(self, batched_inputs: list[dict], key: str) -> list[Instances] | None:
        """``key`` of each input on the model's device; None if the inputs do not have it."""
        return [x[key].to(self.device) for x in batched_inputs] if key in batched_inputs[0] else None

    @staticmethod
    def _postprocess(instances: list[Instances], batched_inputs: list[dict], image_sizes) -> list[dict]:
        """Results in the size that the inputs ask for (``height``, ``width``), otherwise the image's own."""
        sizes = [(x.get("height", h), x.get("width", w)) for x, (h, w) in zip(batched_inputs, image_sizes)]
        return [{"instances": detector_postprocess(result, *size)} for result, size in zip(instances, sizes)]


@META_ARCH_REGISTRY.register()
class GeneralizedRCNN(_Detector):
    """Backbone, proposals, regions: Faster R-CNN, Mask R-CNN and their like.

    Args:
        backbone: image to feature maps.
        proposal_generator: see ``RPN``; None if the data brings proposals.
        roi_heads: see ``ROIHeads``.
        pixel_mean, pixel_std: one number a channel.
        input_format: "RGB", "BGR" or another that ``convert_image_to_rgb`` knows; needed for pictures only.
        vis_period: every how many iterations to put a picture into the event storage; 0: never.
    """

    @configurable
    def __init__(
        self, *, backbone: Backbone, proposal_generator: nn.Module | None, roi_heads: nn.Module,
        pixel_mean: tuple[float], pixel_std: tuple[float], input_format: str | None = None, vis_period: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(backbone, pixel_mean, pixel_std)
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.input_format = input_format
        self.vis_period = vis_period
        if vis_period > 0 and input_format is None:
            raise AssertionError("input_format is required for visualization!")

    @classmethod
    def from_config(cls, cfg) -> dict:
        """Arguments out of the config, parts by its names."""
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, backbone.output_shape()),
            "roi_heads": build_roi_heads(cfg, backbone.output_shape()),
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def visualize_training(self, batched_inputs: list[dict], proposals: list[Instances]) -> None:
        """Put a picture of the first image into the event storage: true boxes, and the 20 best proposals beside."""
        from detectron2.data.detection_utils import convert_image_to_rgb
        from detectron2.utils.visualizer import Visualizer

        inputs, best = batched_inputs[0], proposals[0].proposal_boxes.tensor[:20]
        image = convert_image_to_rgb(inputs["image"].permute(1, 2, 0), self.input_format)
        boxes = (inputs["instances"].gt_boxes, best.cpu().numpy())
        panels = [Visualizer(image, None).overlay_instances(boxes=b).get_image() for b in boxes]
        picture = np.concatenate(panels, axis=1).transpose(2, 0, 1)
        get_event_storage().put_image("Left: GT bounding boxes;  Right: Predicted proposals", picture)

    def forward(self, batched_inputs: list[dict]):
        """Losses or detections.

        Args:
            batched_inputs: one dict an image: ``image`` (C, H, W); in training ``instances``; ``proposals`` if there is
                no proposal generator; ``height`` and ``width`` of the output wanted.

        Returns:
            In training the losses by name; otherwise ``{"instances": ...}`` for each image.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        gt_instances = self._collect(batched_inputs, "instances")
        features = self.backbone(images.tensor)
        proposals, losses = self._propose(images, features, batched_inputs, gt_instances)
        _, detector_losses = self.roi_heads(images, features, proposals, gt_instances)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        return {**detector_losses, **losses}

    def _propose(self, images: ImageList, features: dict[str, torch.Tensor], batched_inputs, gt_instances=None):
        """Proposals and their losses, of the generator or out of the inputs."""
        if self.proposal_generator is not None:
            return self.proposal_generator(images, features, gt_instances)
        proposals = self._collect(batched_inputs, "proposals")
        if proposals is None:
            raise AssertionError("the model has no proposal generator, and the inputs have no 'proposals'")
        return proposals, {}

    def inference(
        self, batched_inputs: list[dict], detected_instances: list[Instances] | None = None, do_postprocess: bool = True
    ):
        """Detect.

        Args:
            batched_inputs: see ``forward``.
            detected_instances: one an image with ``pred_boxes`` and ``pred_classes``, to add masks to.
            do_postprocess: whether to bring the results to the output's size.

        Returns:
            See ``forward``; without post-processing a list of ``Instances`` in the input image's pixels.
        """
        if self.training:
            raise AssertionError("inference() is for models in eval mode")
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if detected_instances is None:
            proposals, _ = self._propose(images, features, batched_inputs)
            results, _ = self.roi_heads(images, features, proposals, None)
        else:
            detected_instances = [x.to(self.device) for x in detected_instances]
            results = self.roi_heads.forward_with_given_boxes(features, detected_instances)
        return self._postprocess(results, batched_inputs, images.image_sizes) if do_postprocess else results


@META_ARCH_REGISTRY.register()
class ProposalNetwork(_Detector):
    """A backbone and a proposal generator, nothing else; arguments as in ``GeneralizedRCNN``."""

    @configurable
    def __init__(
        self, *, backbone: Backbone, proposal_generator: nn.Module, pixel_mean: tuple[float], pixel_std: tuple[float]
    ) -> None:
        super().__init__(backbone, pixel_mean, pixel_std)
        self.proposal_generator = proposal_generator

    @classmethod
    def from_config(cls, cfg) -> dict:
        """Arguments out of the config, parts by its names."""
        backbone = build_backbone(cfg)
        generator = build_proposal_generator(cfg, backbone.output_shape())
        pixels = {"pixel_mean": cfg.MODEL.PIXEL_MEAN, "pixel_std": cfg.MODEL.PIXEL_STD}
        return {"backbone": backbone, "proposal_generator": generator, **pixels}

    def forward(self, batched_inputs: list[dict]):
        """The losses by name in training; otherwise ``{"proposals": ...}`` for each image, see ``GeneralizedRCNN``."""
        images = self.preprocess_image(batched_inputs)
        gt_instances = self._collect(batched_inputs, "instances")
        features = self.backbone(images.tensor)
        proposals, losses = self.proposal_generator(images, features, gt_instances)
        if self.training:
            return losses
        results = self._postprocess(proposals, batched_inputs, images.image_sizes)
        return [{"proposals": result["instances"]} for result in results]
