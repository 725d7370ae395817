"""FCIS's heads: a category, a mask and a box per region by PSRoI pooling of shared score maps (section 2)."""

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
from torch import Tensor, nn

from ..autograd import zero_with_grad
from ..devices import put_shares
from ..errors import InputError
from ..loss_share import loss_share
from ..position_sensitive import (
    SAMPLINGS,
    assemble_cells,
    assemble_means,
    level_maps,
    position_sensitive_conv,
    to_table,
)
from .losses import RegionLosses, RegionTargets, region_losses, region_targets, select_hard_regions
from .options import check_options

OUTSIDE, INSIDE = 0, 1  # index of each of the paper's two sides, in the score maps and in what is pooled from them
_ALL_REGIONS = 10**7  # a batch size per image that no image exceeds, so that nothing is sampled


@dataclass
class PositionSensitiveMaps:
    """The score maps and box maps of a batch, as the tables that PSRoI pooling reads (see ``position_sensitive``).

    Args:
        score_table: float (rows, 2 * (C + 1)), the scores of both sides, outside first, and all categories.
        box_table: float (rows, 4), box deltas.
        map_shapes: (N, H, W) of the maps of each level.
        grid_size: k.
    """

    score_table: Tensor
    box_table: Tensor
    map_shapes: list[tuple[int, int, int]]
    grid_size: int

    def category_score_maps(self, level: int, category: int, image: int = 0) -> Tensor:
        """Return the score maps of one category in one image: (2, k, k, H, W), first index ``OUTSIDE`` or ``INSIDE``.

        Args:
            level: index of the feature map.
            category: 0 to C - 1, or C for background.
            image: index in the batch.
        """
        maps = level_maps(self.score_table, self.map_shapes, self.grid_size, level)[image]
        return maps.unflatten(2, (2, -1))[:, :, :, category].permute(2, 0, 1, 3, 4)


@ROI_HEADS_REGISTRY.register()
class FCISROIHeads(ROIHeads):
    """Detection and segmentation from one set of position-sensitive score maps, without layers per region.

    With one feature map these are the paper's heads. With several levels of a pyramid the convolutions are shared by
    all levels, and each region reads the level that Detectron2 assigns to its size.

    The score maps have k * k * 2 * (C + 1) channels, ``((row * k + column) * 2 + side) * (C + 1) + category``. Side 0
    is outside, side 1 inside; the last category is the background. The box maps have k * k * 4 channels,
    ``(row * k + column) * 4 + coordinate``.

    Args:
        in_features: names of the feature maps, fine to coarse.
        input_shapes: their shapes, with the same number of channels and each stride twice the one before.
        grid_size: k.
        resolution: m, cells per side of the grid of a region.
        sampling: ``aligned`` or ``pool``, see ``position_sensitive``.
        conv_dims: output channels of each convolution (with ReLU) before the maps.
        conv_kernel: kernel size of these convolutions.
        conv_norm: norm of these convolutions, "" for none.
        box2box_transform: encodes and decodes box deltas.
        smooth_l1_beta: of the box loss, 1 / sigma^2 in the paper's notation.
        ohem: train on the regions of highest loss instead of a random sample.
        mask_thresh: coverage from which a cell of a mask target is foreground.
        seg_loss_weight: weight of the mask loss.
        box_loss_weight: weight of the box loss.
        num_rounds: how often regions are scored at inference. 2 also scores the regressed boxes.
        chunk_size: number of regions that are pooled at once at inference.
        batch_size_per_image: number of regions per image that are trained on.
        positive_fraction: largest fraction of them that is foreground; not used with ``ohem``.
        **kwargs: see ``ROIHeads``.
    """

    @configurable
    def __init__(
        self, *, in_features: list[str], input_shapes: list[ShapeSpec], grid_size: int, resolution: int, sampling: str,
        conv_dims: list[int], conv_kernel: int, conv_norm: str, box2box_transform: Box2BoxTransform,
        smooth_l1_beta: float, ohem: bool, mask_thresh: float, seg_loss_weight: float, box_loss_weight: float,
        num_rounds: int, chunk_size: int, batch_size_per_image: int, positive_fraction: float, **kwargs,
    ) -> None:  # fmt: skip
        # OHEM selects from all regions, so the base class must keep them all
        sampling_args = (_ALL_REGIONS, 1.0) if ohem else (batch_size_per_image, positive_fraction)
        super().__init__(batch_size_per_image=sampling_args[0], positive_fraction=sampling_args[1], **kwargs)
        self.regions_per_image = batch_size_per_image
        self.in_features = in_features
        self.spatial_scales = [1.0 / shape.stride for shape in input_shapes]
        self.min_level = round(math.log2(input_shapes[0].stride))
        self.grid_size, self.resolution = grid_size, resolution
        self.sample_regions = SAMPLINGS[sampling]
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
        """Read the arguments from ``cfg.MODEL.FCIS``, ``ROI_HEADS`` and ``ROI_BOX_HEAD``.

        Raises:
            InputError: a value that cannot work; the message names the key, its value and what was expected.
        """
        options, names = check_options(cfg), cfg.MODEL.ROI_HEADS.IN_FEATURES
        if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":  # the default; it would return the candidates as instances
            raise InputError(
                "MODEL.META_ARCHITECTURE is GeneralizedRCNN, expected FCIS: FCISROIHeads returns candidates, and only "
                "FCIS runs the mask voting that turns them into instances"
            )
        missing = [name for name in names if name not in input_shape]
        if missing or not names:
            raise InputError(
                f"MODEL.ROI_HEADS.IN_FEATURES is {names}, expected names of the backbone's feature maps "
                f"{list(input_shape)}"
            )
        shapes = [input_shape[name] for name in names]
        strides = [shape.stride for shape in shapes]
        if len({s.channels for s in shapes}) > 1 or any(b != 2 * a for a, b in zip(strides, strides[1:])):
            raise InputError(
                f"MODEL.ROI_HEADS.IN_FEATURES {names} have channels {[s.channels for s in shapes]} and strides "
                f"{strides}, expected equal channels, and each stride twice the one before"
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
        """Compute the losses in training, or the candidates for mask voting at inference.

        Args:
            images: see ``ROIHeads``.
            features: feature maps (N, Ci, Hi, Wi) by name.
            proposals: one per image, with ``proposal_boxes``.
            targets: in training, one per image, with ``gt_boxes``, ``gt_classes`` and ``gt_masks``.

        Returns:
            In training, the proposals that were trained on, and the losses ``loss_cls``, ``loss_mask`` and
            ``loss_box_reg``. At inference, the candidates of each image, see :meth:`score_candidates`, and {}.

        Raises:
            InputError: the ground truth has no ``gt_masks``, as in data sets with boxes only.
        """
        maps = self.position_sensitive_maps([features[name] for name in self.in_features])
        if not self.training:
            return self.score_candidates(maps, proposals), {}
        if targets is None:
            raise AssertionError("FCISROIHeads needs targets in training")
        if any(len(image) and not image.has("gt_masks") for image in targets):
            raise InputError(
                "FCIS learns from masks, but instances of DATASETS.TRAIN have no 'segmentation': use a data set with "
                "masks"
            )
        proposals = self.label_and_sample_proposals(proposals, targets)
        targets = region_targets(proposals, self.num_classes, self.resolution, self.mask_thresh)
        if self.ohem:
            proposals, targets = self.select_hard_proposals(maps, proposals, targets)
        losses = self.losses(maps, proposals, targets)
        unused_features = (feature for name, feature in features.items() if name not in self.in_features)
        losses["loss_cls"] = losses["loss_cls"] + zero_with_grad(unused_features)
        return proposals, losses

    def position_sensitive_maps(self, features: list[Tensor]) -> PositionSensitiveMaps:
        """Compute the score maps and box maps from features (N, C, Hi, Wi), one tensor per level."""
        hidden = [self.convs(feature) for feature in features]
        tables = [
            to_table([position_sensitive_conv(h, layer.weight, layer.bias) for h in hidden], self.grid_size)
            for layer in (self.score_maps, self.box_maps)
        ]
        # under autocast, convert to float32 once here instead of in every chunk of regions
        tables = [table.to(torch.promote_types(table.dtype, torch.float32)) for table in tables]
        map_shapes = [(h.shape[0], h.shape[2], h.shape[3]) for h in hidden]
        return PositionSensitiveMaps(*tables, map_shapes, self.grid_size)

    def boxes_to_rois(self, boxes: list[Boxes]) -> tuple[Tensor, Tensor | None]:
        """Convert the boxes of each image, in image pixels, to regions (R, 5) and their levels.

        Returns:
            Float (R, 5), image index and XYXY, and int64 (R,), the level of each region; None if there is one level.
        """
        levels = None
        if len(self.spatial_scales) > 1:
            top = self.min_level + len(self.spatial_scales) - 1
            levels = assign_boxes_to_levels(boxes, self.min_level, top, 224, 4)  # the defaults of ROIPooler
        return convert_boxes_to_pooler_format(boxes).float(), levels

    def assemble(self, maps: PositionSensitiveMaps, rois: Tensor, levels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pool regions from the maps (the paper's figure 2).

        Returns:
            The scores of both sides and all categories, (R, 2, C + 1, m, m), and box deltas, (R, 4).
        """
        samples = self.sample_regions(
            rois, maps.map_shapes, self.spatial_scales, self.grid_size, self.resolution, levels
        )
        cell_scores = assemble_cells(maps.score_table, samples).unflatten(1, (2, -1))
        return cell_scores, assemble_means(maps.box_table, samples)

    @staticmethod
    def class_logits(cell_scores: Tensor) -> Tensor:
        """Classify regions by the mean over cells of the larger of both sides' scores (section 2.2).

        Args:
            cell_scores: (R, 2, C + 1, m, m).

        Returns:
            (R, C + 1), background last.
        """
        return torch.maximum(cell_scores[:, OUTSIDE], cell_scores[:, INSIDE]).mean((2, 3))

    @staticmethod
    def mask_logits(cell_scores: Tensor, classes: Tensor) -> Tensor:
        """Segment regions: the inside score minus the outside score of one category (section 2.2).

        Its sigmoid is the probability of "inside" in the paper's softmax over the two sides.

        Args:
            cell_scores: (R, 2, C + 1, m, m).
            classes: int64 (R,), the category of each region.

        Returns:
            (R, m, m).
        """
        cell_scores = cell_scores[torch.arange(len(cell_scores), device=cell_scores.device), :, classes]
        return cell_scores[:, INSIDE] - cell_scores[:, OUTSIDE]

    # ------------------------------------------------------------------------------------------------ training

    def _losses_per_region(
        self, maps: PositionSensitiveMaps, proposals: list[Instances], targets: RegionTargets
    ) -> tuple[RegionLosses, dict[str, Tensor]]:
        """Compute the losses of each region, and which predictions are correct, bool tensors by the name to log."""
        boxes = [p.proposal_boxes for p in proposals]
        cell_scores, deltas = self.assemble(maps, *self.boxes_to_rois(boxes))
        gt_classes = torch.cat([p.gt_classes for p in proposals])
        foreground_index, gt_masks, gt_boxes = targets
        gt_deltas = self.box2box_transform.get_deltas(Boxes.cat(boxes).tensor[foreground_index], gt_boxes)
        class_logits = self.class_logits(cell_scores)
        mask_logits = self.mask_logits(cell_scores[foreground_index], gt_classes[foreground_index])
        losses = region_losses(
            class_logits, mask_logits, deltas, gt_classes, foreground_index, gt_masks, gt_deltas, self.smooth_l1_beta
        )
        correct_class = class_logits.detach().argmax(1) == gt_classes
        correct_cells = (mask_logits.detach() > 0) == gt_masks
        correct = {
            "cls_accuracy": correct_class,
            "fg_cls_accuracy": correct_class[foreground_index],
            "mask_accuracy": correct_cells,
        }
        return losses, correct

    @torch.no_grad()
    def select_hard_proposals(
        self, maps: PositionSensitiveMaps, proposals: list[Instances], targets: RegionTargets
    ) -> tuple[list[Instances], RegionTargets]:
        """Select the regions of each image with the highest weighted sum of the three losses (OHEM).

        Returns:
            The selected proposals of each image and their targets.
        """
        losses, _ = self._losses_per_region(maps, proposals, targets)
        total = losses.class_loss + self.seg_loss_weight * losses.mask_loss + self.box_loss_weight * losses.box_loss
        counts = [len(p) for p in proposals]
        selected = select_hard_regions(total, counts, self.regions_per_image)
        starts = [sum(counts[:i]) for i in range(len(counts))]
        selected_targets = targets.select(torch.cat([first + index for first, index in zip(starts, selected)]))
        return [p[index] for p, index in zip(proposals, selected)], selected_targets

    def losses(
        self, maps: PositionSensitiveMaps, proposals: list[Instances], targets: RegionTargets
    ) -> dict[str, Tensor]:
        """Compute the three losses and log the accuracies.

        Returns:
            ``loss_cls``: mean over the labeled proposals of all processes. ``loss_mask`` and ``loss_box_reg``: weighted
            sum divided by the configured number of regions per image times the number of images.
        """
        losses, correct = self._losses_per_region(maps, proposals, targets)
        put_shares({f"fcis/{name}": is_correct for name, is_correct in correct.items()})
        num_regions = self.regions_per_image * len(proposals)
        class_loss = losses.class_loss.sum() / max(1, len(losses.class_loss))
        return {
            "loss_cls": class_loss * loss_share(len(losses.class_loss), class_loss),
            "loss_mask": losses.mask_loss.sum() * (self.seg_loss_weight / num_regions),
            "loss_box_reg": losses.box_loss.sum() * (self.box_loss_weight / num_regions),
        }

    # ----------------------------------------------------------------------------------------------- inference

    @torch.no_grad()
    def score_candidates(self, maps: PositionSensitiveMaps, proposals: list[Instances]) -> list[Instances]:
        """Score the proposals, then the boxes regressed from them, for ``num_rounds`` rounds.

        Returns:
            The candidates of all rounds, one ``Instances`` per image: ``proposal_boxes``; ``class_probs`` (R, C),
            without background; ``mask_probs`` (R, m, m), the foreground probabilities for the most likely category.
        """
        boxes, rounds = [p.proposal_boxes for p in proposals], []
        for _ in range(self.num_rounds):
            class_probs, mask_probs, deltas = self.score_regions(maps, boxes)
            rounds.append(
                [
                    Instances(p.image_size, proposal_boxes=image_boxes, class_probs=probs, mask_probs=masks)
                    for p, image_boxes, probs, masks in zip(proposals, boxes, class_probs, mask_probs)
                ]
            )
            boxes = [self._regress(b, d, p.image_size) for b, d, p in zip(boxes, deltas, proposals)]
        return [Instances.cat(list(image)) for image in zip(*rounds)]

    def score_regions(self, maps: PositionSensitiveMaps, boxes: list[Boxes]) -> tuple[list[Tensor], ...]:
        """Score the boxes of each image.

        Regions are pooled in chunks to limit memory: 600 regions of 81 categories would need 170 MB at once.

        Returns:
            Three lists with one tensor per image: class probabilities (R, C), mask probabilities (R, m, m) for the most
            likely category, and box deltas (R, 4).
        """
        rois, levels = self.boxes_to_rois(boxes)
        chunks = []
        for start in range(0, max(1, len(rois)), self.chunk_size):
            part = slice(start, start + self.chunk_size)
            cell_scores, deltas = self.assemble(maps, rois[part], None if levels is None else levels[part])
            class_probs = self.class_logits(cell_scores).softmax(1)[:, :-1]
            mask_probs = self.mask_logits(cell_scores, class_probs.argmax(1)).sigmoid()
            chunks.append((class_probs, mask_probs, deltas))
        counts = [len(b) for b in boxes]
        return tuple(torch.cat(field).split(counts) for field in zip(*chunks))

    def _regress(self, boxes: Boxes, deltas: Tensor, image_size: tuple[int, int]) -> Boxes:
        """Apply the deltas and clip the boxes to the image. A box whose result is not finite stays as it is."""
        moved = self.box2box_transform.apply_deltas(deltas, boxes.tensor)
        moved = Boxes(torch.where(torch.isfinite(moved).all(1, keepdim=True), moved, boxes.tensor))
        moved.clip(image_size)
        return moved
