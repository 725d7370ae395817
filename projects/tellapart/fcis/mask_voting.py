"""From scored candidates to instances: NMS per category, then mask voting (FCIS, section 2.3, "inference")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

from ..masks import tight_boxes

# Tolerance, so that values equal to a threshold pass despite rounding. It covers sums of hundreds of float32 numbers.
_TOLERANCE = 1e-5
# Height and width in pixels of the tiles in which masks are voted on. Smaller tiles mean less computation, larger tiles
# fewer kernel launches.
_TILE_CPU, _TILE_GPU = 64, 256


@dataclass
class MaskVoting:
    """Turns the candidates of an image into instances with full-size masks.

    Args:
        score_thresh: pairs of candidate and category with a higher class probability take part in the NMS.
        nms_thresh: box IoU of the NMS within each category.
        max_detections: largest number of instances per image, over all categories. Negative: no limit.
        vote_iou: candidates whose box IoU with a detection is at least this vote on its mask.
        mask_thresh: a candidate's mask is foreground from this probability, and a pixel of a detection is foreground
            from this fraction of the votes.
    """

    score_thresh: float = 1e-3
    nms_thresh: float = 0.3
    max_detections: int = 100
    vote_iou: float = 0.5
    mask_thresh: float = 0.4

    @torch.no_grad()
    def __call__(
        self, boxes: Tensor, class_probs: Tensor, mask_probs: Tensor, image_size: tuple[int, int]
    ) -> Instances:
        """Return the instances of one image.

        Args:
            boxes: (R, 4) XYXY in pixels of ``image_size``. Boxes that extend beyond the image are clipped, and their
                masks are resized to the clipped boxes.
            class_probs: (R, C), category probabilities without background.
            mask_probs: (R, m, m), foreground probabilities on a grid over each box.
            image_size: (height, width) of the masks to return.

        Returns:
            Sorted by falling score: ``pred_boxes`` (tight around the masks), ``scores`` (class probabilities),
            ``pred_classes`` int64, ``pred_masks`` bool (N, height, width). Instances whose mask is empty after the vote
            are dropped, as are candidates with values that are not finite.
        """
        finite = torch.isfinite(boxes).all(1) & torch.isfinite(class_probs).all(1)
        if not finite.all():
            boxes, class_probs, mask_probs = boxes[finite], class_probs[finite], mask_probs[finite]
        boxes = Boxes(boxes)
        boxes.clip(image_size)
        candidate_index, classes = (class_probs > self.score_thresh).nonzero().unbind(1)
        scores = class_probs[candidate_index, classes]
        kept = batched_nms(boxes.tensor[candidate_index], scores, classes, self.nms_thresh)
        if self.max_detections >= 0:
            kept = kept[: self.max_detections]
        candidate_index, classes, scores = candidate_index[kept], classes[kept], scores[kept]
        weights = class_probs[:, classes].T * (pairwise_iou(boxes[candidate_index], boxes) >= self.vote_iou)
        # a box without area has IoU 0 with itself, but votes on its own mask
        weights[torch.arange(len(kept)), candidate_index] = scores
        voted_masks = vote(mask_probs, boxes.tensor, weights, image_size, self.mask_thresh)
        detections = Instances(image_size)
        detections.pred_boxes = tight_boxes(voted_masks)
        detections.scores = scores
        detections.pred_classes = classes
        detections.pred_masks = voted_masks
        return detections[detections.pred_boxes.nonempty()]


def vote(mask_probs: Tensor, boxes: Tensor, weights: Tensor, image_size: tuple[int, int], threshold: float) -> Tensor:
    """Average the candidates' binary masks in the image with weights, and threshold the averages.

    The image is processed in tiles, each with the candidates that overlap it. All of it at once would need R * height *
    width numbers, most of them zero.

    Args:
        mask_probs: (R, m, m), foreground probabilities on a grid over each box.
        boxes: (R, 4) XYXY in pixels, inside the image.
        weights: (K, R), non-negative; the weights of each of K detections are divided by their sum.
        image_size: (height, width).
        threshold: of the mask probabilities and of the average.

    Returns:
        bool (K, height, width).
    """
    height, width = image_size
    voted_masks = torch.zeros((len(weights), height, width), dtype=torch.bool, device=mask_probs.device)
    if not weights.numel():
        return voted_masks
    mask_probs, weights = mask_probs.float(), weights.float()
    weights = weights / weights.sum(1, keepdim=True)
    x0, x1 = _round_to_pixels(boxes[:, 0], boxes[:, 2], width)
    y0, y1 = _round_to_pixels(boxes[:, 1], boxes[:, 3], height)
    is_voter = (weights > 0).any(0)
    # without autocast: half precision would move averages and probabilities across the thresholds
    with torch.autocast(mask_probs.device.type, enabled=False):
        tile = _TILE_CPU if mask_probs.device.type == "cpu" else _TILE_GPU
        for top in range(0, height, tile):
            bottom = min(top + tile, height)
            overlaps_rows = is_voter & (y0 < bottom) & (y1 > top)
            for left in range(0, width, tile):
                right = min(left + tile, width)
                voter_index = (overlaps_rows & (x0 < right) & (x1 > left)).nonzero().flatten()
                detection_index = (weights[:, voter_index] > 0).any(1).nonzero().flatten()
                if not len(detection_index):
                    continue
                rows = _interpolation_matrices(y0[voter_index], y1[voter_index], mask_probs.shape[1], top, bottom)
                columns = _interpolation_matrices(x0[voter_index], x1[voter_index], mask_probs.shape[2], left, right)
                binary = rows @ mask_probs[voter_index] @ columns.transpose(1, 2) >= threshold - _TOLERANCE
                average = weights[detection_index][:, voter_index] @ binary.flatten(1).to(weights.dtype)
                foreground = (average >= threshold - _TOLERANCE).view(-1, bottom - top, right - left)
                voted_masks[detection_index, top:bottom, left:right] = foreground
    return voted_masks


def _round_to_pixels(low: Tensor, high: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Round intervals to whole pixels from 0 to ``length``, at least one pixel each.

    Returns:
        The first pixel of each interval, and one past its last pixel.
    """
    first = low.round().clamp(min=0, max=length - 1)
    return first, torch.maximum(high.round().clamp(max=length), first + 1)


def _interpolation_matrices(low: Tensor, high: Tensor, num_cells: int, start: int, stop: int) -> Tensor:
    """Compute matrices that resize rows of cells bilinearly to the pixels ``low`` to ``high`` of the image.

    Pixel centers are at + 0.5 and the border cells are repeated, as in ``F.interpolate`` with ``align_corners=False``.

    Args:
        low: (R,), first pixel of each interval.
        high: (R,), one past its last pixel.
        num_cells: number of cells of each interval.
        start: first pixel of the result.
        stop: one past the last pixel of the result.

    Returns:
        (R, stop - start, num_cells), zero for pixels outside the interval.
    """
    pixels = torch.arange(start, stop, device=low.device, dtype=low.dtype)
    position = (pixels + 0.5 - low[:, None]) * (num_cells / (high - low))[:, None] - 0.5
    cells = torch.arange(num_cells, device=low.device, dtype=low.dtype)
    distance = position.clamp(0, num_cells - 1)[..., None] - cells
    in_interval = (pixels >= low[:, None]) & (pixels < high[:, None])
    return (1 - distance.abs()).clamp(min=0) * in_interval[..., None]
