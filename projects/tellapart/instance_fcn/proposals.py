"""InstanceFCN's proposal generator: predicts the objectness and the mask of sliding windows (section 3).

Shapes in this module: N images per batch, W windows, m x m cells per window mask. Window indices are int64 (W, 6) as
returned by ``windows.centered_windows``; window boxes are XYXY in image pixels.
"""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, batched_nms
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn import functional as F

from ..autograd import zero_with_grad
from ..devices import put_shares
from ..errors import InputError
from ..loss_share import loss_share
from ..masks import mask_targets, replicate_outside, tight_edges
from ..validation import check_keys, check_mask_on, registry_name_is_a
from .classifier import MaskPooledROIHeads, PassThroughROIHeads
from .heads import WINDOW_MASK_HEAD_REGISTRY
from .windows import centered_windows, label_by_center_and_size, label_by_iou, windows_to_boxes

LABEL_RULES = ("iou", "deepmask")
PROPOSAL_SCORES = ("objectness", "product")
_INTEGERS_ABOVE_0 = (
    "WINDOW_SIZE", "WINDOW_STRIDE", "CONV_DIM", "DEEPMASK_RESOLUTION", "BATCH_SIZE_PER_IMAGE", "TOPK_PER_LEVEL",
    "POST_NMS_TOPK",
)  # fmt: skip
_FRACTIONS = ("MASK_THRESH", "POSITIVE_FRACTION", "NMS_THRESH")


def check_options(options: CfgNode) -> None:
    """Check the values of ``cfg.MODEL.INSTANCE_FCN``, some of which would otherwise change the training silently.

    Raises:
        InputError: a value is invalid; names the key, the value and what is expected.
    """

    def is_increasing_pair(pair: list[float]) -> bool:
        return len(pair) == 2 and all(isinstance(x, (int, float)) for x in pair) and pair[0] < pair[1]

    window_size = options.WINDOW_SIZE
    choices = {"MASK_HEAD": dict(WINDOW_MASK_HEAD_REGISTRY), "LABEL_RULE": LABEL_RULES, "SCORE": PROPOSAL_SCORES}
    checks = [(key, options[key] in names, f"one of {list(names)}") for key, names in choices.items()]
    checks += [(key, options[key] >= 1, "1 or more") for key in _INTEGERS_ABOVE_0]
    checks += [(key, 0 <= options[key] <= 1, "a number from 0 to 1") for key in _FRACTIONS]
    # With more bins than cells, some score maps would never be read.
    grid_fits = 1 <= options.GRID_SIZE <= window_size
    checks.append(("GRID_SIZE", grid_fits, f"a number from 1 to the WINDOW_SIZE of {window_size}"))
    thresholds, size_band = options.IOU_THRESHOLDS, options.SIZE_BAND
    thresholds_fit = is_increasing_pair(thresholds) and thresholds[0] >= 0 and thresholds[1] <= 1
    checks.append(("IOU_THRESHOLDS", thresholds_fit, "two increasing numbers from 0 to 1"))
    band_fits = is_increasing_pair(size_band) and size_band[0] > 0
    checks.append(("SIZE_BAND", band_fits, "two increasing numbers above 0"))
    checks.append(("CENTER_TOLERANCE", options.CENTER_TOLERANCE > 0, "a number above 0"))
    check_keys("MODEL.INSTANCE_FCN", options, checks)


@PROPOSAL_GENERATOR_REGISTRY.register()
class InstanceFCNProposals(nn.Module):
    """Propose the masks of square windows that slide over feature maps. All levels of a pyramid share the weights.

    Args:
        in_features: names of the feature maps, from fine to coarse.
        input_shapes: shapes of these maps; all have the same number of channels.
        mask_head: predicts the windows' masks, see ``WINDOW_MASK_HEAD_REGISTRY``.
        conv_dim: number of channels in the objectness branch.
        window_size: m, the height and width of a window, in feature pixels.
        window_stride: distance between neighboring windows, in feature pixels.
        label_rule: which windows are positive: "iou" for ``label_by_iou``, "deepmask" for ``label_by_center_and_size``.
        iou_thresholds: argument of ``label_by_iou``.
        center_tolerance, size_band: arguments of ``label_by_center_and_size``.
        mask_thresh: a cell of a mask target is foreground if at least this fraction of it is.
        batch_size_per_image: number of windows per image that are sampled for the losses.
        positive_fraction: largest fraction of positives among the sampled windows.
        mask_loss_weight: factor on the mask loss.
        topk: number of windows per level (and image scale) whose masks are predicted in inference, by objectness.
        nms_thresh: NMS removes a proposal if its box IoU with one of higher score is above this value.
        post_nms_topk: largest number of proposals per image.
        score: what ranks the proposals: "objectness", or "product" with the mean foreground probability in the mask.
        propose_in_training: whether training returns proposals, as the ROI heads need them; otherwise it returns none.
        masks_in_training: whether these proposals have masks, as ``MaskPooledROIHeads`` needs them. Detectron2's ROI
            heads add ground truth to the proposals and accept no fields other than RPN's.
    """

    @configurable
    def __init__(
        self, *, in_features: list[str], input_shapes: list[ShapeSpec], mask_head: nn.Module, conv_dim: int,
        window_size: int, window_stride: int, label_rule: str, iou_thresholds: tuple[float, float],
        center_tolerance: float, size_band: tuple[float, float], mask_thresh: float, batch_size_per_image: int,
        positive_fraction: float, mask_loss_weight: float, topk: int, nms_thresh: float, post_nms_topk: int,
        score: str, propose_in_training: bool, masks_in_training: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features = in_features
        self.strides = [shape.stride for shape in input_shapes]
        self.mask_head = mask_head
        self.window_size, self.window_stride = window_size, window_stride
        self.label_rule, self.iou_thresholds = label_rule, iou_thresholds
        self.center_tolerance, self.size_band = center_tolerance, size_band
        self.mask_thresh = mask_thresh
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self.mask_loss_weight = mask_loss_weight
        self.topk, self.nms_thresh, self.post_nms_topk, self.score = topk, nms_thresh, post_nms_topk, score
        self.propose_in_training, self.masks_in_training = propose_in_training, masks_in_training
        self.objectness_conv = Conv2d(input_shapes[0].channels, conv_dim, 3, padding=1, activation=nn.ReLU())
        self.objectness_logits = nn.Conv2d(conv_dim, 1, 1)
        for layer in (self.objectness_conv, self.objectness_logits):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Read the arguments from the config, mostly from ``cfg.MODEL.INSTANCE_FCN``.

        Raises:
            InputError: a value is invalid; names the key, the value and what is expected.
        """
        check_mask_on(cfg.MODEL, cls.__name__)
        options, roi_heads = cfg.MODEL.INSTANCE_FCN, cfg.MODEL.ROI_HEADS.NAME
        passes_through = registry_name_is_a(ROI_HEADS_REGISTRY, roi_heads, PassThroughROIHeads)
        missing = [name for name in options.IN_FEATURES if name not in input_shape]
        if missing or not options.IN_FEATURES:
            raise InputError(
                f"MODEL.INSTANCE_FCN.IN_FEATURES is {options.IN_FEATURES}, expected one or more of the backbone's "
                f"feature maps {list(input_shape)}"
            )
        shapes = [input_shape[name] for name in options.IN_FEATURES]
        channels = [shape.channels for shape in shapes]
        if len(set(channels)) > 1:
            raise InputError(
                f"MODEL.INSTANCE_FCN.IN_FEATURES {options.IN_FEATURES} have {channels} channels, expected the same "
                "number on all levels"
            )
        check_options(options)
        return {
            "in_features": options.IN_FEATURES,
            "input_shapes": shapes,
            "mask_head": WINDOW_MASK_HEAD_REGISTRY.get(options.MASK_HEAD)(cfg, channels[0]),
            "conv_dim": options.CONV_DIM,
            "window_size": options.WINDOW_SIZE,
            "window_stride": options.WINDOW_STRIDE,
            "label_rule": options.LABEL_RULE,
            "iou_thresholds": tuple(options.IOU_THRESHOLDS),
            "center_tolerance": options.CENTER_TOLERANCE,
            "size_band": tuple(options.SIZE_BAND),
            "mask_thresh": options.MASK_THRESH,
            "batch_size_per_image": options.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": options.POSITIVE_FRACTION,
            "mask_loss_weight": options.MASK_LOSS_WEIGHT,
            "topk": options.TOPK_PER_LEVEL,
            "nms_thresh": options.NMS_THRESH,
            "post_nms_topk": options.POST_NMS_TOPK,
            "score": options.SCORE,
            "propose_in_training": not passes_through or cfg.VIS_PERIOD > 0,
            "masks_in_training": registry_name_is_a(ROI_HEADS_REGISTRY, roi_heads, MaskPooledROIHeads),
        }

    def forward(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose masks and, in training, compute ``loss_objectness`` and ``loss_window_mask``.

        Args:
            images: N images, of which only the sizes are used.
            features: feature maps (N, C, Hi, Wi) by name.
            gt_instances: per image ``gt_boxes`` and ``gt_masks``; only in training.

        Returns:
            Per image the proposals as in :meth:`nms_proposals`, and the losses, empty in inference. In training there
            are no proposals if ``propose_in_training`` is False, and only their ``proposal_boxes`` and
            ``objectness_logits`` if ``masks_in_training`` is False.
        """
        objectness_maps, mask_maps = self.predict_maps(features)
        windows_per_image = self.place_windows(images.image_sizes, objectness_maps)
        losses = {}
        if self.training:
            losses = self.losses(objectness_maps, mask_maps, windows_per_image, gt_instances)
            unused = zero_with_grad(m for name, m in features.items() if name not in self.in_features)
            losses["loss_objectness"] = losses["loss_objectness"] + unused
            if not self.propose_in_training:
                return [], losses
        with torch.no_grad():
            proposals = [
                self.nms_proposals(*self.predict_top_windows(image_maps, mask_maps, windows_per_level), size)
                for *image_maps, windows_per_level, size in zip(*objectness_maps, windows_per_image, images.image_sizes)
            ]
        if self.training and not self.masks_in_training:
            proposals = [_without_masks(p) for p in proposals]
        return proposals, losses

    def predict_maps(self, features: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Run both branches on all levels.

        Args:
            features: feature maps (N, C, Hi, Wi) by name.

        Returns:
            Per level the objectness logits (N, Hi, Wi) of the windows centered on the feature pixels, and the maps from
            which the mask head predicts the windows' masks.
        """
        levels = [features[name] for name in self.in_features]
        objectness_maps = [self.objectness_logits(self.objectness_conv(level))[:, 0].float() for level in levels]
        return objectness_maps, self.mask_head(levels)

    def place_windows(self, image_sizes: list[tuple[int, int]], objectness_maps: list[Tensor]) -> list[list[Tensor]]:
        """Place the windows of all images.

        Args:
            image_sizes: (height, width) per image.
            objectness_maps: (N, Hi, Wi) per level.

        Returns:
            Window indices (W, 6) per image and per level, only of windows centered in the image, not in its padding.
        """
        return [
            [
                self._place_on_level(level, image_index, image_size, level_map)
                for level, level_map in enumerate(objectness_maps)
            ]
            for image_index, image_size in enumerate(image_sizes)
        ]

    def _place_on_level(self, level: int, image_index: int, image_size: tuple[int, int], level_map: Tensor) -> Tensor:
        """Place the windows of one image on one level, see :meth:`place_windows`."""
        stride = self.strides[level]
        height, width = [min(-(-pixels // stride), length) for pixels, length in zip(image_size, level_map.shape[1:])]
        return centered_windows(
            level, image_index, (height, width), self.window_size, self.window_stride, level_map.device
        )

    def objectness_of(self, objectness_map: Tensor, window_indices: Tensor) -> Tensor:
        """Read the objectness logits (W,) at the centers of windows (W, 6) in the map (Hi, Wi) of their level and
        image."""
        rows, columns = (window_indices[:, 2:4] + (self.window_size - 1) // 2).unbind(1)
        return objectness_map[rows, columns]

    # ------------------------------------------------------------------------------------------------ training

    def losses(
        self, objectness_maps: list[Tensor], mask_maps: list[Tensor], windows_per_image: list[list[Tensor]],
        gt_instances: list[Instances] | None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Compute the logistic losses on sampled windows (section 3.3, equation 1).

        Args:
            objectness_maps, mask_maps: as returned by :meth:`predict_maps`.
            windows_per_image: as returned by :meth:`place_windows`.
            gt_instances: per image ``gt_boxes`` and ``gt_masks``.

        Returns:
            ``loss_objectness``, the mean over the sampled windows, and ``loss_window_mask``: the mean over a window's
            cells in the image, averaged over the positive windows and multiplied by ``mask_loss_weight``. Both are
            means over the windows of all processes.
        """
        if gt_instances is None:
            raise AssertionError("InstanceFCNProposals needs gt_instances in training")
        objectness_logits, labels, positive_windows, mask_targets_per_image = [], [], [], []
        for *image_maps, windows_per_level, gt in zip(*objectness_maps, windows_per_image, gt_instances):
            window_indices = torch.cat(windows_per_level)
            window_boxes = windows_to_boxes(window_indices, self.strides, self.window_size)
            gt_index, image_labels = self.label_windows(gt.gt_boxes.to(window_boxes.device), window_boxes)
            positive, negative = subsample_labels(image_labels, self.batch_size_per_image, self.positive_fraction, 0)
            sampled = torch.cat((positive, negative))
            image_logits = torch.cat([self.objectness_of(*one) for one in zip(image_maps, windows_per_level)])
            objectness_logits.append(image_logits[sampled])
            labels.append(image_labels[sampled])
            positive_windows.append(window_indices[positive])
            if len(positive):
                gt_masks, boxes = gt.gt_masks[gt_index[positive]], window_boxes[positive].tensor
                mask_targets_per_image.append(
                    mask_targets(gt_masks, boxes, self.mask_head.resolution, self.mask_thresh)
                )
        labels, objectness_logits, positive_windows = map(torch.cat, (labels, objectness_logits, positive_windows))
        mask_logits, in_image = self.mask_head.predict_masks(mask_maps, positive_windows)
        targets = torch.cat(mask_targets_per_image) if mask_targets_per_image else torch.zeros_like(in_image)
        cell_losses = F.binary_cross_entropy_with_logits(mask_logits, targets.to(mask_logits.dtype), reduction="none")
        cell_losses = cell_losses * in_image
        mask_losses = cell_losses.flatten(1).sum(1) / in_image.flatten(1).sum(1).clamp(min=1)
        objectness_loss = F.binary_cross_entropy_with_logits(
            objectness_logits, labels.to(objectness_logits.dtype), reduction="sum"
        )
        num_positive = len(positive_windows)
        storage = get_event_storage()
        storage.put_scalar("instance_fcn/num_positive_windows", num_positive / len(gt_instances))
        if num_positive:
            put_shares({"instance_fcn/mask_accuracy": ((mask_logits > 0) == targets)[in_image]})
        objectness_loss = objectness_loss / max(1, len(labels))
        mask_loss = mask_losses.sum() * (self.mask_loss_weight / max(1, num_positive))
        return {
            "loss_objectness": objectness_loss * loss_share(len(labels), objectness_loss),
            "loss_window_mask": mask_loss * loss_share(num_positive, mask_loss),
        }

    def label_windows(self, gt_boxes: Boxes, window_boxes: Boxes) -> tuple[Tensor, Tensor]:
        """Label windows by the rule that ``label_rule`` names, see :func:`label_by_iou` for what is returned."""
        if self.label_rule == "iou":
            return label_by_iou(gt_boxes, window_boxes, self.iou_thresholds)
        return label_by_center_and_size(gt_boxes, window_boxes, self.center_tolerance, self.size_band)

    # ----------------------------------------------------------------------------------------------- inference

    def predict_top_windows(
        self, image_maps: list[Tensor], mask_maps: list[Tensor], windows_per_level: list[Tensor]
    ) -> tuple[Boxes, Tensor, Tensor]:
        """Select the windows with the highest objectness in one image and predict their masks, only theirs.

        Args:
            image_maps: the image's objectness map (Hi, Wi) per level.
            mask_maps: of all images, as returned by :meth:`predict_maps`.
            windows_per_level: window indices (W, 6) of the image per level; ``topk`` of each level are selected.

        Returns:
            Of the selected windows: boxes, objectness logits (W,), and foreground probabilities (W, m, m). A cell
            outside the image has the value of the nearest cell in it. Otherwise interpolation would lower the
            probabilities near the image border, and masks would end before it.
        """
        selected, objectness_logits = [], []
        for level_map, window_indices in zip(image_maps, windows_per_level):
            level_logits = self.objectness_of(level_map, window_indices)
            top = level_logits.topk(min(self.topk, len(level_logits))).indices
            selected.append(window_indices[top])
            objectness_logits.append(level_logits[top])
        selected = torch.cat(selected)
        mask_logits, in_image = self.mask_head.predict_masks(mask_maps, selected)
        window_boxes = windows_to_boxes(selected, self.strides, self.window_size)
        return window_boxes, torch.cat(objectness_logits), replicate_outside(mask_logits.sigmoid(), in_image)

    def nms_proposals(
        self, window_boxes: Boxes, objectness_logits: Tensor, window_masks: Tensor, image_size: tuple[int, int]
    ) -> Instances:
        """Score the windows of one image and apply NMS to the tight boxes around their masks.

        Args:
            window_boxes: W boxes in pixels of ``image_size``.
            objectness_logits: (W,).
            window_masks: foreground probabilities (W, m, m).
            image_size: (height, width).

        Returns:
            Proposals by descending score, with fields ``proposal_boxes`` (tight), ``objectness_logits``,
            ``proposal_scores``, ``window_boxes`` (``Boxes``) and ``window_masks`` (probabilities). Windows with an
            empty mask are removed.
        """
        binary_masks = window_masks >= 0.5
        scores = objectness_logits.sigmoid()
        if self.score == "product":
            foreground = binary_masks.flatten(1)
            num_foreground = foreground.sum(1).clamp(min=1)
            scores = scores * (window_masks.flatten(1) * foreground).sum(1) / num_foreground
        tight_boxes = tight_window_boxes(binary_masks, window_boxes)
        tight_boxes.clip(image_size)
        kept = (binary_masks.flatten(1).any(1) & tight_boxes.nonempty()).nonzero().flatten()
        order = batched_nms(tight_boxes.tensor[kept], scores[kept], torch.zeros_like(kept), self.nms_thresh)
        kept = kept[order[: self.post_nms_topk]]
        proposals = Instances(image_size)
        proposals.proposal_boxes, proposals.objectness_logits = tight_boxes[kept], objectness_logits[kept]
        proposals.proposal_scores = scores[kept]
        proposals.window_boxes, proposals.window_masks = window_boxes[kept], window_masks[kept]
        return proposals


def _without_masks(proposals: Instances) -> Instances:
    """Return proposals with RPN's fields only."""
    fields = {name: proposals.get(name) for name in ("proposal_boxes", "objectness_logits")}
    return Instances(proposals.image_size, **fields)


def tight_window_boxes(binary_masks: Tensor, window_boxes: Boxes) -> Boxes:
    """Compute the tight boxes around window masks.

    Args:
        binary_masks: bool (W, m, m).
        window_boxes: W boxes.

    Returns:
        W boxes in the coordinate frame of ``window_boxes``, with sides of length 0 where the mask is empty.
    """
    fractions = tight_edges(binary_masks) / binary_masks.shape[1]
    corner, side = window_boxes.tensor[:, :2], window_boxes.tensor[:, 2:] - window_boxes.tensor[:, :2]
    return Boxes(corner.repeat(1, 2) + fractions * side.repeat(1, 2))
