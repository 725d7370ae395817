"""From scored candidates to instances: NMS by category, then mask voting (FCIS, section 2.3, "inference")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

_ROUNDING = 1e-6  # averages of float32 weights: one that should stand exactly at a threshold counts as reaching it
_BAND_ELEMENTS = 2**24  # candidates x pixels that are in memory at once


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
            boxes: (R, 4) XYXY in pixels of ``image_size``.
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
        boxes = Boxes(boxes.clone())
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
        bool (K, height, width). Works in bands of rows, so that no more than some 2^24 numbers are there at a time.
    """
    height, width = image_size
    voters = (weights > 0).any(0)
    masks, boxes, weights = masks[voters].float(), boxes[voters], weights[:, voters].float()
    voted = torch.zeros((len(weights), height, width), dtype=torch.bool, device=masks.device)
    if not weights.numel():
        return voted
    weights = weights / weights.sum(1, keepdim=True)
    x0, x1 = _whole_pixels(boxes[:, 0], boxes[:, 2], width)
    y0, y1 = _whole_pixels(boxes[:, 1], boxes[:, 3], height)
    columns = _interpolation(x0, x1, masks.shape[2], 0, width)
    half_way = masks @ columns.transpose(1, 2)  # (R, m, width): columns resized, rows not yet
    top, bottom = int(y0.min()), int(y1.max())
    band = max(1, _BAND_ELEMENTS // (len(masks) * width))
    for start in range(top, bottom, band):
        stop = min(start + band, bottom)
        rows = _interpolation(y0, y1, masks.shape[1], start, stop)
        binary = (rows @ half_way >= threshold - _ROUNDING).to(weights.dtype)
        binary *= (_inside(y0, y1, start, stop)[:, :, None] & _inside(x0, x1, 0, width)[:, None, :])
        share = weights @ binary.flatten(1)
        voted[:, start:stop] = (share >= threshold - _ROUNDING).view(-1, stop - start, width)
    return voted


def _whole_pixels(low: Tensor, high: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """An interval rounded to whole pixels, at least one of them: first, and one past the last, of ``length``."""
    first = low.round().clamp(min=0, max=length - 1)
    return first, torch.maximum(high.round().clamp(max=length), first + 1)


def _inside(low: Tensor, high: Tensor, start: int, stop: int) -> Tensor:
    """bool (R, stop - start): which pixels lie in each interval."""
    pixels = torch.arange(start, stop, device=low.device)
    return (pixels >= low[:, None]) & (pixels < high[:, None])


def _interpolation(low: Tensor, high: Tensor, cells: int, start: int, stop: int) -> Tensor:
    """Matrices (R, stop - start, cells) that resize ``cells`` numbers bilinearly to the pixels low to high, the edge
    repeated outside; pixel centres are at + 0.5 (what images are resized by everywhere)."""
    pixels = torch.arange(start, stop, device=low.device, dtype=low.dtype)
    place = (pixels + 0.5 - low[:, None]) * (cells / (high - low))[:, None] - 0.5
    distance = place.clamp(0, cells - 1)[..., None] - torch.arange(cells, device=low.device, dtype=low.dtype)
    return (1 - distance.abs()).clamp(min=0)


def tight_boxes(masks: Tensor) -> Boxes:
    """The smallest boxes around bool masks (N, H, W), XYXY; zeros around an empty one."""
    edges = []
    for axis in (1, 2):  # over the rows: columns with foreground; then the other way round
        used = masks.any(axis)
        length = used.shape[1]
        first, last = used.int().argmax(1), length - used.flip(1).int().argmax(1)
        edges += [first, last * used.any(1)]
    x0, x1, y0, y1 = edges
    return Boxes(torch.stack((x0, y0, x1, y1), 1).float())
