"""Two-stage detectors: Faster R-CNN, Mask R-CNN and similar models."""

from __future__ import annotations

import torch
from torch import nn

from detectron2._missing import not_included
from detectron2.config import configurable
from detectron2.layers import move_device_like
from detectron2.structures import ImageList, Instances

from ..backbone import Backbone, build_backbone
from ..postprocessing import detector_postprocess
from ..proposal_generator import build_proposal_generator
from ..roi_heads import build_roi_heads
from .build import META_ARCH_REGISTRY


@META_ARCH_REGISTRY.register()
class GeneralizedRCNN(nn.Module):
    """A two-stage detector: backbone, proposal generator, RoI heads.

    Args:
        backbone: computes feature maps from images.
        proposal_generator: see ``RPN``. None if the inputs contain proposals.
        roi_heads: see ``ROIHeads``.
        pixel_mean, pixel_std: one number per channel.
        input_format: the channels of the input images, "RGB" or "BGR". Stored, but not used here.
        vis_period: must be 0, because pictures of training are not included.
    """

    @configurable
    def __init__(
        self, *, backbone: Backbone, proposal_generator: nn.Module | None, roi_heads: nn.Module,
        pixel_mean: tuple[float], pixel_std: tuple[float], input_format: str | None = None, vis_period: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if vis_period > 0:
            raise not_included(f"VIS_PERIOD {vis_period}")
        if len(pixel_mean) != len(pixel_std):
            raise AssertionError(f"MODEL.PIXEL_MEAN {pixel_mean} and PIXEL_STD {pixel_std} have different lengths")
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.input_format = input_format
        self.vis_period = vis_period
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg) -> dict:
        """Read the arguments from the config and build the parts that it names."""
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

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalize the input images, each (C, H, W), and pad them to one batch."""
        images = [move_device_like(x["image"], self.pixel_mean) for x in batched_inputs]
        images = [(x - self.pixel_mean) / self.pixel_std for x in images]
        constraints = self.backbone.padding_constraints
        return ImageList.from_tensors(images, self.backbone.size_divisibility, padding_constraints=constraints)

    def forward(self, batched_inputs: list[dict]):
        """Compute losses in training, detections otherwise.

        Args:
            batched_inputs: one dict per image. ``image``: (C, H, W). ``instances``: the ground truth, in training.
                ``proposals``: needed if there is no proposal generator. ``height`` and ``width``: the output size in
                pixels, by default that of ``image``.

        Returns:
            In training a dict of losses, otherwise ``{"instances": Instances}`` per image.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        gt_instances = self._collect(batched_inputs, "instances")
        features = self.backbone(images.tensor)
        proposals, losses = self._propose(images, features, batched_inputs, gt_instances)
        _, detector_losses = self.roi_heads(images, features, proposals, gt_instances)
        return {**detector_losses, **losses}

    def _collect(self, batched_inputs: list[dict], key: str) -> list[Instances] | None:
        """Move ``key`` of each input to the device of the model. None if the inputs do not have it."""
        return [x[key].to(self.device) for x in batched_inputs] if key in batched_inputs[0] else None

    def _propose(self, images: ImageList, features: dict[str, torch.Tensor], batched_inputs, gt_instances=None):
        """Return proposals and their losses, from the proposal generator or from the inputs."""
        if self.proposal_generator is not None:
            return self.proposal_generator(images, features, gt_instances)
        proposals = self._collect(batched_inputs, "proposals")
        if proposals is None:
            raise AssertionError("the model has no proposal generator, and the inputs have no 'proposals'")
        return proposals, {}

    def inference(
        self, batched_inputs: list[dict], detected_instances: list[Instances] | None = None, do_postprocess: bool = True
    ):
        """Detect objects.

        Args:
            batched_inputs: see ``forward``.
            detected_instances: one per image, with ``pred_boxes`` and ``pred_classes``. If given, only masks are
                predicted, for these boxes.
            do_postprocess: whether to scale the results to the output size.

        Returns:
            As ``forward``. Without post-processing a list of ``Instances`` in pixels of the input images.
        """
        if self.training:
            raise AssertionError("inference() needs a model in eval mode: call model.eval() first")
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if detected_instances is None:
            proposals, _ = self._propose(images, features, batched_inputs)
            results, _ = self.roi_heads(images, features, proposals, None)
        else:
            detected_instances = [x.to(self.device) for x in detected_instances]
            results = self.roi_heads.forward_with_given_boxes(features, detected_instances)
        if not do_postprocess:
            return results
        sizes = [(x.get("height", h), x.get("width", w)) for x, (h, w) in zip(batched_inputs, images.image_sizes)]
        return [{"instances": detector_postprocess(result, *size)} for result, size in zip(results, sizes)]
