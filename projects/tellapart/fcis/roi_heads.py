"""FCIS's heads: joint inside/outside score maps, assembled per region to a category, a mask and a box (section 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import assign_boxes_to_levels, convert_boxes_to_pooler_format
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, ROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..autograd import zero_with_grad
from ..errors import InputError
from ..position_sensitive import SAMPLINGS, position_sensitive_conv, read, read_mean, to_table
from .losses import RegionLosses, RegionTargets, hardest, region_losses, region_targets
from .options import check_options

OUTSIDE, INSIDE = 0, 1  # the two sides of the score maps
_ALL = 10**7  # regions an image: more than there can be


@dataclass
class PositionSensitiveMaps:
    """The two layers' maps as tables (see ``position_sensitive``) and what is needed to find regions in them."""

    scores: Tensor
    boxes: Tensor
    shapes: list[tuple[int, int, int]]


@ROI_HEADS_REGISTRY.register()
class FCISROIHeads(ROIHeads):
    """Detection and segmentation out of one set of position-sensitive score maps; no layer works on a region.

    On one feature map it is the paper's; on several levels of a pyramid the convolutions are shared, and each region
    reads the level of its size, as Detectron2 assigns them.

    Score maps: k * k * 2 (C + 1) channels, ``(row * k + column) * 2 (C + 1) + side * (C + 1) + category``, side 0
    outside, 1 inside, background the last category. Box maps: k * k * 4, ``(row * k + column) * 4 + coordinate``.

    Args:
        in_features: names of the feature maps, fine to coarse.
        input_shapes: their shapes: equal channels, strides that double.
        grid_size: k.
        resolution: m, cells a side of a region's grid.
        sampling: ``aligned`` or ``pool``, see ``position_sensitive``.
        conv_dims, conv_kernel, conv_norm: the convolutions (with ReLU) before the maps: channels, kernel size, norm.
        box2box_transform: what box deltas mean.
        smooth_l1_beta: 1 / sigma^2 of the box loss.
        ohem: train on the regions of highest loss instead of a random sample.
        mask_thresh: share of a cell that makes it foreground in a mask target.
        seg_loss_weight, box_loss_weight: factors on these losses.
        num_rounds: how often regions are scored in inference: 2 scores the regressed boxes too.
        chunk_size: regions that are assembled at once in inference.
        other arguments: of ``ROIHeads``.
    """

    @configurable
    def __init__(
        self, *, in_features: list[str], input_shapes: list[ShapeSpec], grid_size: int, resolution: int, sampling: str,
        conv_dims: list[int], conv_kernel: int, conv_norm: str, box2box_transform: Box2BoxTransform,
        smooth_l1_beta: float, ohem: bool, mask_thresh: float, seg_loss_weight: float, box_loss_weight: float,
        num_rounds: int, chunk_size: int, batch_size_per_image: int, positive_fraction: float, **kwargs,
    ) -> None:  # fmt: skip
        # mining chooses among all regions, so the base must not sample
        sample = (_ALL, 1.0) if ohem else (batch_size_per_image, positive_fraction)
        super().__init__(batch_size_per_image=sample[0], positive_fraction=sample[1], **kwargs)
        self.regions_per_image = batch_size_per_image
        self.in_features = in_features
        self.scales = [1.0 / shape.stride for shape in input_shapes]
        self.min_level = round(math.log2(input_shapes[0].stride))
        self.grid_size, self.resolution = grid_size, resolution
        self.samples_of = SAMPLINGS[sampling]
        self.box2box_transform = box2box_transform
        self.smooth_l1_beta = smooth_l1_beta
        self.ohem = ohem
        self.mask_thresh = mask_thresh
        self.seg_loss_weight, self.box_loss_weight = seg_loss_weight, box_loss_weight
        self.num_rounds, self.chunk_size = num_rounds, chunk_size

        channels, convs = input_shapes[0].channels, []
        for dim in conv_dims:
            norm, padding = get_norm(conv_norm, dim), conv_kernel // 2
            convs.append(
                Conv2d(channels, dim, conv_kernel, padding=padding, bias=norm is None, norm=norm, activation=nn.ReLU())
            )
            channels = dim
        self.convs = nn.Sequential(*convs)
        bins = grid_size * grid_size
        self.score_maps = nn.Conv2d(channels, bins * 2 * (self.num_classes + 1), 1)
        self.box_maps = nn.Conv2d(channels, bins * 4, 1)
        for layer in self.convs:
            weight_init.c2_msra_fill(layer)
        for layer in (self.score_maps, self.box_maps):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Arguments out of ``cfg.MODEL.FCIS``, ``ROI_HEADS`` and ``ROI_BOX_HEAD``.

        Raises:
            InputError: names the key, what it is and what is wanted.
        """
        options, names = check_options(cfg), cfg.MODEL.ROI_HEADS.IN_FEATURES
        if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":  # the default; it would give candidates out as instances
            raise InputError(
                "MODEL.META_ARCHITECTURE is GeneralizedRCNN, wanted FCIS: FCISROIHeads gives candidates to vote on"
            )
        missing = [name for name in names if name not in input_shape]
        if missing or not names:
            raise InputError(f"MODEL.ROI_HEADS.IN_FEATURES is {names}, but the backbone gives {list(input_shape)}")
        shapes = [input_shape[name] for name in names]
        strides = [shape.stride for shape in shapes]
        if len({s.channels for s in shapes}) > 1 or any(b != 2 * a for a, b in zip(strides, strides[1:])):
            raise InputError(
                f"MODEL.ROI_HEADS.IN_FEATURES {names} have channels {[s.channels for s in shapes]} and strides "
                f"{strides}, wanted equal channels and strides that double"
            )
        return {
            **super().from_config(cfg),
            "in_features": names,
            "input_shapes": shapes,
            "grid_size": options.GRID_SIZE,
            "resolution": options.RESOLUTION,
            "sampling": options.SAMPLING,
            "conv_dims": options.CONV_DIMS,
            "conv_kernel": options.CONV_KERNEL,
            "conv_norm": options.NORM,
            "box2box_transform": Box2BoxTransform(weights=cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS),
            "smooth_l1_beta": cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA,
            "ohem": options.OHEM,
            "mask_thresh": options.MASK_THRESH,
            "seg_loss_weight": options.SEG_LOSS_WEIGHT,
            "box_loss_weight": options.BOX_LOSS_WEIGHT,
            "num_rounds": options.NUM_ROUNDS,
            "chunk_size": options.CHUNK_SIZE,
        }

    def forward(
        self, images: ImageList, features: dict[str, Tensor], proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:  # fmt: skip
        """The losses, or every region scored; arguments as in ``ROIHeads``, ``targets`` with ``gt_masks``.

        Returns:
            In training the proposals trained on, and ``loss_cls``, ``loss_mask``, ``loss_box_reg``. Otherwise {} and,
            one an image, the *candidates* that mask voting turns into instances: ``proposal_boxes``, ``scores``
            (R, C) without background, ``masks`` (R, m, m) foreground probabilities of the best category.

        Raises:
            InputError: ground truth without ``gt_masks``, as data sets of boxes give it.
        """
        maps = self.position_sensitive_maps([features[name] for name in self.in_features])
        if not self.training:
            return self.candidates(maps, proposals), {}
        if targets is None:
            raise AssertionError("FCISROIHeads needs targets in training")
        if any(len(image) and not image.has("gt_masks") for image in targets):
            raise InputError("FCIS learns from masks, but instances of DATASETS.TRAIN have no 'segmentation'")
        proposals = self.label_and_sample_proposals(proposals, targets)
        wanted = region_targets(proposals, self.num_classes, self.resolution, self.mask_thresh)
        if self.ohem:
            proposals, wanted = self.hardest_proposals(maps, proposals, wanted)
        losses = self.losses(maps, proposals, wanted)
        idle = zero_with_grad(feature for name, feature in features.items() if name not in self.in_features)
        losses["loss_cls"] = losses["loss_cls"] + idle
        return proposals, losses

    def position_sensitive_maps(self, features: list[Tensor]) -> PositionSensitiveMaps:
        """Features (N, C, Hi, Wi), one a level, to the two sets of maps."""
        hidden = [self.convs(feature) for feature in features]
        tables = [
            to_table([position_sensitive_conv(h, layer.weight, layer.bias) for h in hidden], self.grid_size)
            for layer in (self.score_maps, self.box_maps)
        ]
        # under autocast once here, not for every chunk of regions
        tables = [table.to(torch.promote_types(table.dtype, torch.float32)) for table in tables]
        return PositionSensitiveMaps(*tables, [(h.shape[0], h.shape[2], h.shape[3]) for h in hidden])

    def regions(self, boxes: list[Boxes]) -> tuple[Tensor, Tensor | None]:
        """Boxes of each image, in pixels, to ROIs (R, 5) and their levels (R,), None where there is one level."""
        levels = None
        if len(self.scales) > 1:
            top = self.min_level + len(self.scales) - 1
            levels = assign_boxes_to_levels(boxes, self.min_level, top, 224, 4)  # ROIPooler's defaults
        return convert_boxes_to_pooler_format(boxes).float(), levels

    def assemble(self, maps: PositionSensitiveMaps, rois: Tensor, levels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The regions' scores on both sides, (R, 2, C + 1, m, m), and box deltas, (R, 4): the paper's figure 2."""
        samples = self.samples_of(rois, maps.shapes, self.scales, self.grid_size, self.resolution, levels)
        return read(maps.scores, samples).unflatten(1, (2, -1)), read_mean(maps.boxes, samples)

    @staticmethod
    def class_logits(grids: Tensor) -> Tensor:
        """Detection: the better side of each cell, averaged over the cells; (R, 2, C + 1, m, m) to (R, C + 1)."""
        return torch.maximum(grids[:, OUTSIDE], grids[:, INSIDE]).mean((2, 3))

    @staticmethod
    def side_logits(grids: Tensor, classes: Tensor) -> Tensor:
        """Segmentation: inside minus outside at one category (R,) of each region, (R, m, m)."""
        grids = grids[torch.arange(len(grids), device=grids.device), :, classes]
        return grids[:, INSIDE] - grids[:, OUTSIDE]

    # ------------------------------------------------------------------------------------------------ training

    def _predict_and_compare(
        self, maps: PositionSensitiveMaps, proposals: list[Instances], wanted: RegionTargets
    ) -> tuple[RegionLosses, dict[str, Tensor]]:
        """The losses of each region, and what is worth logging."""
        boxes = [p.proposal_boxes for p in proposals]
        grids, deltas = self.assemble(maps, *self.regions(boxes))
        gt_classes = torch.cat([p.gt_classes for p in proposals])
        foreground, gt_masks, gt_boxes = wanted
        gt_deltas = self.box2box_transform.get_deltas(Boxes.cat(boxes).tensor[foreground], gt_boxes)
        class_logits = self.class_logits(grids)
        side_logits = self.side_logits(grids[foreground], gt_classes[foreground])
        losses = region_losses(
            class_logits, side_logits, deltas, gt_classes, foreground, gt_masks, gt_deltas, self.smooth_l1_beta
        )
        right = class_logits.detach().argmax(1) == gt_classes
        right_cells = (side_logits.detach() > 0) == gt_masks
        logged = {"cls_accuracy": right, "fg_cls_accuracy": right[foreground], "mask_accuracy": right_cells}
        return losses, logged

    @torch.no_grad()
    def hardest_proposals(
        self, maps: PositionSensitiveMaps, proposals: list[Instances], wanted: RegionTargets
    ) -> tuple[list[Instances], RegionTargets]:
        """OHEM: of each image the regions of the highest weighted sum of the three losses, and their targets."""
        losses, _ = self._predict_and_compare(maps, proposals, wanted)
        total = losses.cls + self.seg_loss_weight * losses.seg + self.box_loss_weight * losses.box
        counts = [len(p) for p in proposals]
        chosen = hardest(total, counts, self.regions_per_image)
        return [p[c] for p, c in zip(proposals, chosen.split(counts))], wanted.of(chosen)

    def losses(
        self, maps: PositionSensitiveMaps, proposals: list[Instances], wanted: RegionTargets
    ) -> dict[str, Tensor]:
        """``loss_cls``, a mean over the labelled proposals, and ``loss_mask`` and ``loss_box_reg``, sums over the
        number of regions that was asked for."""
        losses, logged = self._predict_and_compare(maps, proposals, wanted)
        storage = get_event_storage()
        for name, right in logged.items():
            if right.numel():
                storage.put_scalar(f"fcis/{name}", right.float().mean().item())
        count = self.regions_per_image * len(proposals)
        return {
            "loss_cls": losses.cls.sum() / max(1, len(losses.cls)),
            "loss_mask": losses.seg.sum() * (self.seg_loss_weight / count),
            "loss_box_reg": losses.box.sum() * (self.box_loss_weight / count),
        }

    # ----------------------------------------------------------------------------------------------- inference

    @torch.no_grad()
    def candidates(self, maps: PositionSensitiveMaps, proposals: list[Instances]) -> list[Instances]:
        """Proposals, then the boxes regressed from them, ...: all scored, see :meth:`forward`."""
        boxes, rounds = [p.proposal_boxes for p in proposals], []
        for _ in range(self.num_rounds):
            scored = self.score_regions(maps, boxes)
            rounds.append([self._scored(p.image_size, *fields) for p, fields in zip(proposals, zip(boxes, *scored))])
            boxes = [self._regress(b, d, p.image_size) for b, d, p in zip(boxes, scored[2], proposals)]
        return [Instances.cat(list(image)) for image in zip(*rounds)]

    def score_regions(self, maps: PositionSensitiveMaps, boxes: list[Boxes]) -> tuple[list[Tensor], ...]:
        """Scores (R, C), masks (R, m, m) of the best category, deltas (R, 4) of each image's boxes; in chunks, since
        all grids at once would be large (600 regions of 81 categories: 170 MB)."""
        rois, levels = self.regions(boxes)
        chunks = []
        for start in range(0, max(1, len(rois)), self.chunk_size):
            part = slice(start, start + self.chunk_size)
            grids, deltas = self.assemble(maps, rois[part], None if levels is None else levels[part])
            scores = self.class_logits(grids).softmax(1)[:, :-1]
            masks = self.side_logits(grids, scores.argmax(1)).sigmoid()
            chunks.append((scores, masks, deltas))
        counts = [len(b) for b in boxes]
        return tuple(torch.cat(field).split(counts) for field in zip(*chunks))

    @staticmethod
    def _scored(image_size: tuple[int, int], boxes: Boxes, scores: Tensor, masks: Tensor, _) -> Instances:
        found = Instances(image_size)
        found.proposal_boxes, found.scores, found.masks = boxes, scores, masks
        return found

    def _regress(self, boxes: Boxes, deltas: Tensor, image_size: tuple[int, int]) -> Boxes:
        """The predicted boxes, inside the image; a box whose prediction is not finite stays."""
        moved = self.box2box_transform.apply_deltas(deltas, boxes.tensor)
        moved = Boxes(torch.where(torch.isfinite(moved).all(1, keepdim=True), moved, boxes.tensor))
        moved.clip(image_size)
        return moved
