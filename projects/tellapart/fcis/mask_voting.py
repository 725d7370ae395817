"""From scored candidates to instances: NMS by category, then mask voting (FCIS, section 2.3, "inference")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

from ..masks import tight_boxes

_ROUNDING = 1e-5  # of averages of hundreds of float32 numbers: one exactly at a threshold counts as reaching it
_TILE, _TILE_GPU = 64, 256  # side of what is voted on at once, pixels: small is less work, large fewer calls


@dataclass
class MaskVoting:
    """Candidates to instances with full-size masks.

    Args:
        score_thresh: a (candidate, category) pair counts if its score is above.
        nms_thresh: box IoU of the NMS within each category.
        max_detections: the best so many of an image, over all categories, are kept; < 0: all.
        vote_iou: candidates of at least this box IoU with a kept one vote on its mask.
        mask_thresh: a candidate's mask is foreground from this probability on, and a pixel from this share of votes on.
    """

    score_thresh: float = 1e-3
    nms_thresh: float = 0.3
    max_detections: int = 100
    vote_iou: float = 0.5
    mask_thresh: float = 0.4

    @torch.no_grad()
    def __call__(self, boxes: Tensor, scores: Tensor, masks: Tensor, image_size: tuple[int, int]) -> Instances:
        """The instances of one image.

        Args:
            boxes: (R, 4) XYXY in pixels of ``image_size``, inside it (what reaches out is cut off, masks squeezed).
            scores: (R, C), category probabilities without background.
            masks: (R, m, m), foreground probabilities on a grid over each box.
            image_size: (height, width) of the masks wanted.

        Returns:
            By falling score: ``pred_boxes`` (tight around the masks), ``scores``, ``pred_classes`` int64,
            ``pred_masks`` bool (N, height, width). A mask that the vote leaves empty is no instance.
        """
        finite = torch.isfinite(boxes).all(1) & torch.isfinite(scores).all(1)
        if not finite.all():
            boxes, scores, masks = boxes[finite], scores[finite], masks[finite]
        boxes = Boxes(boxes)
        boxes.clip(image_size)
        candidates, classes = (scores > self.score_thresh).nonzero().unbind(1)
        kept = batched_nms(boxes.tensor[candidates], scores[candidates, classes], classes, self.nms_thresh)
        if self.max_detections >= 0:
            kept = kept[: self.max_detections]
        candidates, classes = candidates[kept], classes[kept]
        weights = scores[:, classes].T * (pairwise_iou(boxes[candidates], boxes) >= self.vote_iou)
        weights[torch.arange(len(kept)), candidates] = scores[candidates, classes]  # its own vote, if it has no area
        voted = vote(masks, boxes.tensor, weights, image_size, self.mask_thresh)
        found = Instances(image_size)
        found.pred_boxes = tight_boxes(voted)
        found.scores = scores[candidates, classes]
        found.pred_classes = classes
        found.pred_masks = voted
        return found[found.pred_boxes.nonempty()]


def vote(masks: Tensor, boxes: Tensor, weights: Tensor, image_size: tuple[int, int], threshold: float) -> Tensor:
    """Weighted averages of the candidates' binary masks in the image, thresholded.

    Args:
        masks: (R, m, m) foreground probabilities on a grid over each box.
        boxes: (R, 4) XYXY in pixels, inside the image.
        weights: (K, R), not negative; a row's share is what counts.
        image_size: (height, width).
        threshold: of the masks and of the average.

    Returns:
        bool (K, height, width). Works tile by tile of the image, with the candidates that reach into it: all at once
        would be R * height * width numbers, most of them 0.
    """
    height, width = image_size
    voted = torch.zeros((len(weights), height, width), dtype=torch.bool, device=masks.device)
    if not weights.numel():
        return voted
    masks, weights = masks.float(), weights.float()
    weights = weights / weights.sum(1, keepdim=True)
    x0, x1 = _whole_pixels(boxes[:, 0], boxes[:, 2], width)
    y0, y1 = _whole_pixels(boxes[:, 1], boxes[:, 3], height)
    voters = (weights > 0).any(0)
    # in half precision shares at the threshold, and pixels at a mask's edge, would fall on either side
    with torch.autocast(masks.device.type, enabled=False):
        side = _TILE if masks.device.type == "cpu" else _TILE_GPU
        for top in range(0, height, side):
            bottom = min(top + side, height)
            in_row = voters & (y0 < bottom) & (y1 > top)
            for left in range(0, width, side):
                right = min(left + side, width)
                there = (in_row & (x0 < right) & (x1 > left)).nonzero().flatten()
                concerned = (weights[:, there] > 0).any(1).nonzero().flatten()
                if not len(concerned):
                    continue
                rows = _interpolation(y0[there], y1[there], masks.shape[1], top, bottom)
                columns = _interpolation(x0[there], x1[there], masks.shape[2], left, right)
                binary = rows @ masks[there] @ columns.transpose(1, 2) >= threshold - _ROUNDING
                share = weights[concerned][:, there] @ binary.flatten(1).to(weights.dtype)
                chosen = (share >= threshold - _ROUNDING).view(-1, bottom - top, right - left)
                voted[concerned, top:bottom, left:right] = chosen
    return voted


def _whole_pixels(low: Tensor, high: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """An interval rounded to whole pixels, at least one of them: first, and one past the last, of ``length``."""
    first = low.round().clamp(min=0, max=length - 1)
    return first, torch.maximum(high.round().clamp(max=length), first + 1)


def _interpolation(low: Tensor, high: Tensor, cells: int, start: int, stop: int) -> Tensor:
    """Matrices (R, stop - start, cells) that resize ``cells`` numbers bilinearly to the pixels low to high and are 0
    outside; pixel centres are at + 0.5, edges are repeated (what images are resized by everywhere)."""
    pixels = torch.arange(start, stop, device=low.device, dtype=low.dtype)
    place = (pixels + 0.5 - low[:, None]) * (cells / (high - low))[:, None] - 0.5
    distance = place.clamp(0, cells - 1)[..., None] - torch.arange(cells, device=low.device, dtype=low.dtype)
    inside = (pixels >= low[:, None]) & (pixels < high[:, None])
    return (1 - distance.abs()).clamp(min=0) * inside[..., None]
