"""Test-time augmentation: predict flipped and resized views, and merge their instances."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import Instances
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torch.nn import functional as F

from .image_model import to_detections, to_instances
from .mask_crops import MaskCrops
from .merging import Detections

# Chosen on nuclei_val (docs/results.md): instances of two views are the same object from this mask IoU; an instance
# that a view misses counts as one of this score there; and what masks that differ cost, in units of the logit.
_SAME_IOU, _MISSED_SCORE, _DISAGREEMENT = 0.6, 0.05, 5.0


@dataclass(frozen=True)
class View:
    """One view of an image: resized, x and y exchanged, then flipped.

    Attributes:
        size: of the shorter side, pixels of the network's input; 0: as the image comes.
        transpose, flip_x, flip_y: what is done to the image.
    """

    size: int = 0
    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, image: Tensor, max_size: int) -> Tensor:
        """Return the view (C, h', w') of an image (C, h, w); the longer side is at most ``max_size`` if resized."""
        if self.size:
            shape = ResizeShortestEdge.get_output_shape(*image.shape[1:], self.size, max_size)
            resized = F.interpolate(image[None].float(), shape, mode="bilinear", antialias=True)[0]
            image = resized if image.is_floating_point() else resized.round().clamp(0, 255).to(image.dtype)
        image = image.transpose(1, 2) if self.transpose else image
        axes = [axis for axis, flip in ((2, self.flip_x), (1, self.flip_y)) if flip]
        return image.flip(axes).contiguous()

    def restore(self, found: Detections) -> Detections:
        """Return instances of the view in the frame of the image."""
        height, width = found.masks.image_size
        boxes, crops = found.boxes, found.masks.crops
        pixels = found.masks.boxes
        for axis, flip, length in ((0, self.flip_x, width), (1, self.flip_y, height)):
            if flip:
                boxes, pixels = (_flipped(one, axis, length) for one in (boxes, pixels))
                crops = [np.flip(crop, 1 - axis) for crop in crops]
        if self.transpose:
            boxes, pixels = boxes[:, [1, 0, 3, 2]], pixels[:, [1, 0, 3, 2]]
            crops, height, width = [crop.T for crop in crops], width, height
        return Detections(found.scores, found.classes, boxes, MaskCrops(crops, pixels, (height, width)))


def views_of(cfg: CfgNode) -> list[View]:
    """Return the views of ``cfg.TEST.AUG``: every size with every flip."""
    options = cfg.TEST.AUG
    if options.DIHEDRAL:
        flips = [(t, x, y) for t in (False, True) for x in (False, True) for y in (False, True)]
    else:
        flips = [(False, x, False) for x in ((False, True) if options.FLIP else (False,))]
    return [View(size, *flip) for size in (options.MIN_SIZES or (0,)) for flip in flips]


class TestAugmentation(nn.Module):
    """A model that predicts several views of each image and merges what it finds.

    Instances of different views with a mask IoU of at least 0.6 are one object; each view contributes the one of
    highest score. The logit of the object's score is the mean of theirs, less 5 (1 - mean IoU of their masks). Its box
    is the mean, weighted by the scores, and its mask is where the mean of the signed distances to the edges of the
    masks is positive (shape-based averaging: Rohlfing and Maurer, 2007), so that two masks have a mean too.

    Args:
        model: in evaluation mode, with ``{"instances": Instances}`` per image.
        cfg: its config, with ``TEST.AUG``.
        dense: return ``pred_masks`` as a tensor (N, H, W), for consumers that need it; else as :class:`MaskCrops`.
    """

    __test__ = False  # not a test for pytest

    def __init__(self, model: nn.Module, cfg: CfgNode, dense: bool = False) -> None:
        super().__init__()
        self.model, self.views, self.dense = model, views_of(cfg), dense
        self.max_size, self.limit = cfg.TEST.AUG.MAX_SIZE, cfg.TEST.DETECTIONS_PER_IMAGE

    @torch.no_grad()
    def forward(self, inputs: list[dict]) -> list[dict]:
        """Return ``{"instances": Instances}`` per image, in the frame of its "height" and "width"."""
        return [{"instances": self._predict(one)} for one in inputs]

    def _predict(self, one: dict) -> Instances:
        found, has_masks = [], True
        height, width = one.get("height", one["image"].shape[1]), one.get("width", one["image"].shape[2])
        for view in self.views:
            size = (width, height) if view.transpose else (height, width)
            inputs = {**one, "image": view.apply(one["image"], self.max_size), "height": size[0], "width": size[1]}
            instances = self.model([inputs])[0]["instances"]
            has_masks = has_masks and instances.has("pred_masks")
            found.append(view.restore(to_detections(instances)))
        instances = to_instances(merge_views(found)[: self.limit])
        if not has_masks:
            instances.remove("pred_masks")
        elif self.dense:
            instances.pred_masks = instances.pred_masks.to_tensor()
        return instances


def augmented(model: nn.Module, cfg: CfgNode, dense: bool = False) -> nn.Module:
    """Return the model, with test-time augmentation if ``cfg.TEST.AUG.ENABLED``."""
    return TestAugmentation(model, cfg, dense) if cfg.TEST.AUG.ENABLED else model


def merge_views(found: list[Detections]) -> Detections:
    """Merge the instances of several views, in one frame, by falling score; see :class:`TestAugmentation`."""
    both = Detections.cat(found)
    if not len(both):
        return both
    view = np.repeat(np.arange(len(found)), [len(part) for part in found])
    rles = both.masks.to_rles()
    iou = np.asarray(coco_mask.iou(rles, rles, [0] * len(rles)))
    np.fill_diagonal(iou, 1.0)  # of empty masks as well
    groups = _groups(iou * (both.classes[:, None] == both.classes), both.scores, view)
    scores = [_merged_score(both.scores[group], iou[np.ix_(group, group)], len(found)) for group in groups]
    boxes = np.stack([np.average(both.boxes[group], 0, _weights(both.scores[group])) for group in groups])
    crops = [_mean_mask(both.masks, group, _weights(both.scores[group])) for group in groups]
    masks = MaskCrops([crop for crop, _ in crops], np.array([box for _, box in crops]), both.masks.image_size)
    leaders = np.array([group[0] for group in groups])
    return Detections(np.array(scores, np.float32), both.classes[leaders], boxes.astype(np.float32), masks).by_score()


def _groups(iou: np.ndarray, scores: np.ndarray, view: np.ndarray) -> list[np.ndarray]:
    """Return the indices of the instances of each object: the leader, and one of each other view that has one."""
    free, groups = np.ones(len(scores), bool), []
    for i in np.argsort(-scores, kind="stable").tolist():
        if not free[i]:
            continue
        same = np.flatnonzero(free & (iou[i] >= _SAME_IOU) & (view != view[i]))
        same = same[np.argsort(-scores[same], kind="stable")]
        group = np.concatenate(([i], same[np.unique(view[same], return_index=True)[1]]))
        free[group] = False
        groups.append(group)
    return groups


def _merged_score(scores: np.ndarray, iou: np.ndarray, num_views: int) -> float:
    """Return the score of an object from those in the views that have it, and the mask IoU of each pair."""
    known = np.clip(scores.astype(np.float64), 1e-9, 1 - 1e-9)
    all_views = np.append(known, np.full(num_views - len(known), _MISSED_SCORE))
    logit = np.log(all_views / (1 - all_views)).mean() - _DISAGREEMENT * (1 - iou.mean())
    return float(1 / (1 + np.exp(-logit)))


def _weights(scores: np.ndarray) -> np.ndarray:
    return np.maximum(scores.astype(np.float64), 1e-9)


def _mean_mask(masks: MaskCrops, group: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of masks, bool (h, w), and where it lies, XYXY."""
    filled = [i for i, k in enumerate(group) if masks.crops[k].size]
    if len(filled) < 2:
        only = group[filled[0] if filled else 0]
        return masks.crops[only], masks.boxes[only]
    boxes = masks.boxes[group[filled]]
    left, top = boxes[:, :2].min(0)
    right, bottom = boxes[:, 2:].max(0)
    # One pixel of background around, so that every mask has an edge.
    total = np.zeros((bottom - top + 2, right - left + 2), np.float64)
    for i, (x0, y0, x1, y1) in zip(filled, boxes):
        mask = np.zeros(total.shape, np.uint8)
        mask[y0 - top + 1 : y1 - top + 1, x0 - left + 1 : x1 - left + 1] = masks.crops[group[i]]
        inside, outside = (cv2.distanceTransform(one, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for one in (mask, 1 - mask))
        total += weights[i] * (inside - outside)
    return (total > 0)[1:-1, 1:-1], np.array([left, top, right, bottom])


def _flipped(boxes: np.ndarray, axis: int, length: int) -> np.ndarray:
    boxes = boxes.copy()
    boxes[:, [axis, axis + 2]] = length - boxes[:, [axis + 2, axis]]
    return boxes
