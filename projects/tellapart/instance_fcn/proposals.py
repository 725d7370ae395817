"""InstanceFCN's two branches as a Detectron2 proposal generator: windows, their objectness, their masks (section 3)."""

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
from ..errors import InputError
from ..masks import mask_targets, replicate_outside, tight_edges
from ..validation import check_keys, check_mask_on, registry_name_is_a
from .classifier import MaskPooledROIHeads, PassThroughROIHeads
from .heads import WINDOW_MASK_HEAD_REGISTRY
from .windows import centred_windows, label_by_iou, label_by_place_and_size, window_boxes

RULES = ("iou", "deepmask")
SCORES = ("objectness", "product")
_COUNTS = (
    "WINDOW_SIZE", "WINDOW_STRIDE", "CONV_DIM", "DEEPMASK_RESOLUTION", "BATCH_SIZE_PER_IMAGE", "TOPK_PER_LEVEL",
    "POST_NMS_TOPK",
)  # fmt: skip
_SHARES = ("MASK_THRESH", "POSITIVE_FRACTION", "NMS_THRESH")


def check_options(options: CfgNode) -> None:
    """Values of ``cfg.MODEL.INSTANCE_FCN`` that could not work, or would train in silence on something else.

    Raises:
        InputError: names the key, what it is and what is wanted.
    """

    def rising(pair: list[float]) -> bool:
        return len(pair) == 2 and all(isinstance(x, (int, float)) for x in pair) and pair[0] < pair[1]

    size = options.WINDOW_SIZE
    names = {"MASK_HEAD": dict(WINDOW_MASK_HEAD_REGISTRY), "LABEL_RULE": RULES, "SCORE": SCORES}
    checks = [(key, options[key] in known, f"one of {list(known)}") for key, known in names.items()]
    checks += [(key, options[key] >= 1, "1 or more") for key in _COUNTS]
    checks += [(key, 0 <= options[key] <= 1, "a number from 0 to 1") for key in _SHARES]
    # with fewer cells than bins some score maps would never be read
    checks.append(("GRID_SIZE", 1 <= options.GRID_SIZE <= size, f"a number from 1 to the WINDOW_SIZE of {size}"))
    thresholds, band = options.IOU_THRESHOLDS, options.SIZE_BAND
    fits = rising(thresholds) and thresholds[0] >= 0 and thresholds[1] <= 1
    checks.append(("IOU_THRESHOLDS", fits, "two rising numbers from 0 to 1"))
    checks.append(("SIZE_BAND", rising(band) and band[0] > 0, "two rising numbers above 0"))
    checks.append(("CENTER_TOLERANCE", options.CENTER_TOLERANCE > 0, "a number above 0"))
    check_keys("MODEL.INSTANCE_FCN", options, checks)


@PROPOSAL_GENERATOR_REGISTRY.register()
class InstanceFCNProposals(nn.Module):
    """Square windows on feature maps; each has an objectness and a mask. On a pyramid all levels share the branches.

    Args:
        in_features: names of the feature maps, fine to coarse.
        input_shapes: their shapes; equal channels.
        mask_head: see ``WINDOW_MASK_HEAD_REGISTRY``.
        conv_dim: channels of the objectness branch.
        window_size, window_stride: feature pixels: a window's side, and from one to the next.
        label_rule: ``iou`` or ``deepmask``, see ``windows``.
        iou_thresholds: of ``label_by_iou``.
        centre_tolerance, size_band: of ``label_by_place_and_size``.
        mask_thresh: share of a cell that makes it foreground in a target.
        batch_size_per_image, positive_fraction: windows to sample, and at most which share positive.
        mask_loss_weight: factor on the masks' loss.
        topk: windows assembled in inference, of each level (and scale), by objectness.
        nms_thresh: box IoU above which the less likely proposal goes.
        post_nms_topk: proposals kept.
        score: ``objectness``, or ``product`` with the mask's mean foreground probability.
        propose_in_training: whether what follows trains on proposals; otherwise none are made then.
        masks_in_training: whether it reads their windows and masks too, as ``MaskPooledROIHeads`` does. Other ROI heads
            want no more fields than RPN's proposals have, since ground truth joins them.
    """

    @configurable
    def __init__(
        self, *, in_features: list[str], input_shapes: list[ShapeSpec], mask_head: nn.Module, conv_dim: int,
        window_size: int, window_stride: int, label_rule: str, iou_thresholds: tuple[float, float],
        centre_tolerance: float, size_band: tuple[float, float], mask_thresh: float, batch_size_per_image: int,
        positive_fraction: float, mask_loss_weight: float, topk: int, nms_thresh: float, post_nms_topk: int,
        score: str, propose_in_training: bool, masks_in_training: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features = in_features
        self.strides = [shape.stride for shape in input_shapes]
        self.mask_head = mask_head
        self.window_size, self.window_stride = window_size, window_stride
        self.label_rule, self.iou_thresholds = label_rule, iou_thresholds
        self.centre_tolerance, self.size_band = centre_tolerance, size_band
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
        """Arguments out of ``cfg.MODEL.INSTANCE_FCN``.

        Raises:
            InputError: names the key, what it is and what is wanted.
        """
        check_mask_on(cfg.MODEL, cls.__name__)
        options, after = cfg.MODEL.INSTANCE_FCN, cfg.MODEL.ROI_HEADS.NAME
        missing = [name for name in options.IN_FEATURES if name not in input_shape]
        if missing or not options.IN_FEATURES:
            raise InputError(
                f"MODEL.INSTANCE_FCN.IN_FEATURES is {options.IN_FEATURES}, but the backbone gives {list(input_shape)}"
            )
        shapes = [input_shape[name] for name in options.IN_FEATURES]
        channels = [shape.channels for shape in shapes]
        if len(set(channels)) > 1:
            raise InputError(f"MODEL.INSTANCE_FCN.IN_FEATURES {options.IN_FEATURES} have {channels} channels")
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
            "centre_tolerance": options.CENTER_TOLERANCE,
            "size_band": tuple(options.SIZE_BAND),
            "mask_thresh": options.MASK_THRESH,
            "batch_size_per_image": options.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": options.POSITIVE_FRACTION,
            "mask_loss_weight": options.MASK_LOSS_WEIGHT,
            "topk": options.TOPK_PER_LEVEL,
            "nms_thresh": options.NMS_THRESH,
            "post_nms_topk": options.POST_NMS_TOPK,
            "score": options.SCORE,
            "propose_in_training": not registry_name_is_a(ROI_HEADS_REGISTRY, after, PassThroughROIHeads) or cfg.VIS_PERIOD > 0,
            "masks_in_training": registry_name_is_a(ROI_HEADS_REGISTRY, after, MaskPooledROIHeads),
        }

    def forward(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Proposals of each image and, in training, ``loss_objectness`` and ``loss_window_mask``.

        Args:
            images: N images; their sizes count.
            features: maps (N, C, Hi, Wi) by name.
            gt_instances: in training, one an image, with ``gt_boxes`` and ``gt_masks``.

        Returns:
            See :meth:`choose`; in training only for a network that follows, otherwise [], and with the fields that it
            reads: ``proposal_boxes`` and ``objectness_logits``, for ``MaskPooledROIHeads`` all.
        """
        logits, shared = self.predict(features)
        windows = self.windows_of(images.image_sizes, logits)
        losses = self.losses(logits, shared, windows, gt_instances) if self.training else {}
        if self.training:
            idle = zero_with_grad(m for name, m in features.items() if name not in self.in_features)
            losses["loss_objectness"] = losses["loss_objectness"] + idle
            if not self.propose_in_training:
                return [], losses
        with torch.no_grad():
            found = [
                self.nms_proposals(*self.best_windows(logits, shared, image), size)
                for image, size in zip(windows, images.image_sizes)
            ]
        if self.training and not self.masks_in_training:
            found = [_boxes_only(one) for one in found]
        return found, losses

    def predict(self, features: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Both branches: objectness logits (N, Hi, Wi) of the windows centred on each feature pixel, one tensor a
        level, and what the mask head shares between windows."""
        maps = [features[name] for name in self.in_features]
        logits = [self.objectness_logits(self.objectness_conv(m))[:, 0].float() for m in maps]
        return logits, self.mask_head(maps)

    def windows_of(self, image_sizes: list[tuple[int, int]], logits: list[Tensor]) -> list[list[Tensor]]:
        """The windows of each image, one tensor (W, 6) a level, see ``centred_windows``."""
        return [
            [self._windows(level, i, size, m) for level, m in enumerate(logits)] for i, size in enumerate(image_sizes)
        ]

    def _windows(self, level: int, image: int, size: tuple[int, int], logits: Tensor) -> Tensor:
        """The windows of one level that are centred in the image, not in what it was padded with."""
        stride = self.strides[level]
        shown = [min(-(-pixels // stride), length) for pixels, length in zip(size, logits.shape[1:])]
        made = centred_windows(level, image, tuple(shown), self.window_size, self.window_stride)
        return made.to(logits.device)

    def logits_of(self, logits: list[Tensor], windows: Tensor) -> Tensor:
        """The objectness (W,) at the centres of the windows of one level and image."""
        level, image = windows[0, :2].tolist() if len(windows) else (0, 0)
        centres = windows[:, 2:4] + (self.window_size - 1) // 2
        return logits[level][image, centres[:, 0], centres[:, 1]]

    # ------------------------------------------------------------------------------------------------ training

    def losses(
        self, logits: list[Tensor], shared: list[Tensor], windows: list[list[Tensor]], targets: list[Instances] | None
    ) -> dict[str, Tensor]:
        """Logistic losses on sampled windows (section 3.4): of objectness, a mean over them; of masks, a mean over the
        cells in the image of each positive window, and over the positive windows."""
        if targets is None:
            raise AssertionError("InstanceFCNProposals needs gt_instances in training")
        chosen, labels, wanted = [], [], []
        scores = []
        for image_windows, truth in zip(windows, targets):
            everything = torch.cat(image_windows)
            boxes = window_boxes(everything, self.strides, self.window_size)
            index, label = self.label(truth.gt_boxes.to(boxes.device), boxes)
            positive, negative = subsample_labels(label, self.batch_size_per_image, self.positive_fraction, 0)
            sampled = torch.cat((positive, negative))
            scores.append(torch.cat([self.logits_of(logits, w) for w in image_windows])[sampled])
            labels.append(label[sampled])
            chosen.append(everything[positive])
            if len(positive):
                masks = truth.gt_masks[index[positive]]
                where = boxes[positive].tensor
                wanted.append(mask_targets(masks, where, self.mask_head.resolution, self.mask_thresh))
        labels, scores, chosen = torch.cat(labels), torch.cat(scores), torch.cat(chosen)
        predicted, inside = self.mask_head.masks(shared, chosen)
        wanted = torch.cat(wanted) if wanted else torch.zeros_like(inside)
        cells = F.binary_cross_entropy_with_logits(predicted, wanted.to(predicted.dtype), reduction="none") * inside
        masks = cells.flatten(1).sum(1) / inside.flatten(1).sum(1).clamp(min=1)
        objectness = F.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype), reduction="sum")
        storage = get_event_storage()
        storage.put_scalar("instance_fcn/num_positive_windows", len(chosen) / len(targets))
        if len(chosen):
            right = ((predicted > 0) == wanted)[inside]
            storage.put_scalar("instance_fcn/mask_accuracy", right.float().mean().item())
        return {
            "loss_objectness": objectness / max(1, len(labels)),
            "loss_window_mask": masks.sum() * (self.mask_loss_weight / max(1, len(chosen))),
        }

    def label(self, gt_boxes: Boxes, boxes: Boxes) -> tuple[Tensor, Tensor]:
        """Best instance and label of each window, by the rule that the config names."""
        if self.label_rule == "iou":
            return label_by_iou(gt_boxes, boxes, self.iou_thresholds)
        return label_by_place_and_size(gt_boxes, boxes, self.centre_tolerance, self.size_band)

    # ----------------------------------------------------------------------------------------------- inference

    def best_windows(
        self, logits: list[Tensor], shared: list[Tensor], windows: list[Tensor]
    ) -> tuple[Boxes, Tensor, Tensor]:
        """The most likely windows of one image, ``topk`` of each level; only these are assembled.

        Returns:
            Their boxes in image pixels, objectness logits (W,), foreground probabilities (W, m, m); a cell
            off the image has that of the nearest cell in it, so that masks go up to the image's edge.
        """
        kept, scores = [], []
        for level_windows in windows:
            level_scores = self.logits_of(logits, level_windows)
            best = level_scores.topk(min(self.topk, len(level_scores))).indices
            kept.append(level_windows[best])
            scores.append(level_scores[best])
        kept = torch.cat(kept)
        masks, inside = self.mask_head.masks(shared, kept)
        return window_boxes(kept, self.strides, self.window_size), torch.cat(scores), replicate_outside(masks.sigmoid(), inside)

    def nms_proposals(self, boxes: Boxes, logits: Tensor, masks: Tensor, image_size: tuple[int, int]) -> Instances:
        """NMS over the windows of one image, by the tight boxes of their binarised masks.

        Args:
            boxes: windows in pixels of ``image_size``.
            logits: objectness, (W,).
            masks: foreground probabilities (W, m, m).
            image_size: (height, width).

        Returns:
            By falling score: ``proposal_boxes`` (tight), ``objectness_logits``, ``scores``, ``windows`` (``Boxes``) and
            ``window_masks`` (probabilities). A window whose mask is empty is no proposal.
        """
        binary = masks >= 0.5
        scores = logits.sigmoid()
        if self.score == "product":
            foreground = binary.flatten(1)
            scores = scores * (masks.flatten(1) * foreground).sum(1) / foreground.sum(1).clamp(min=1)
        tight = tight_window_boxes(binary, boxes)
        tight.clip(image_size)
        kept = (binary.flatten(1).any(1) & tight.nonempty()).nonzero().flatten()
        order = batched_nms(tight.tensor[kept], scores[kept], torch.zeros_like(kept), self.nms_thresh)
        kept = kept[order[: self.post_nms_topk]]
        found = Instances(image_size)
        found.proposal_boxes, found.objectness_logits, found.scores = tight[kept], logits[kept], scores[kept]
        found.windows, found.window_masks = boxes[kept], masks[kept]
        return found


def _boxes_only(found: Instances) -> Instances:
    return Instances(
        found.image_size, proposal_boxes=found.proposal_boxes, objectness_logits=found.objectness_logits
    )


def tight_window_boxes(masks: Tensor, windows: Boxes) -> Boxes:
    """The boxes around the foreground cells of masks, bool (W, m, m), over windows, in the windows' pixels."""
    cells = tight_edges(masks) / masks.shape[1]
    corner, side = windows.tensor[:, :2], windows.tensor[:, 2:] - windows.tensor[:, :2]
    return Boxes(corner.repeat(1, 2) + cells * side.repeat(1, 2))
