"""Masks at the resolution of the image: s and log K at every pixel of a box, not on a grid of 28 x 28 cells.

The kernel K(Psi_s, Psi_u) is defined for every pixel u of the image, so a mask need not be pasted from a grid. Training
compares s + log K with the ground truth at sampled pixels, as PointRend does (Kirillov et al., 2020, section 3.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from detectron2.structures import BitMasks, Boxes, Instances, ROIMasks
from torch import Tensor, nn
from torch.nn import functional as F

from ..devices import to_device
from ..embeddings.losses import gt_bit_masks
from ..embeddings.operator import SemiConv, box_coordinates

# PointRend's k and beta: of 3 times as many candidates the most uncertain ones are three quarters of the points.
NUM_CANDIDATES, _UNCERTAIN_FRACTION = 3, 0.75
_MAX_PIXELS = 2**21  # computed at once in inference


@dataclass
class EmbeddingMap:
    """Phi of the images of a batch on one feature map, which gives Psi at any place.

    Attributes:
        phi: float (N, D, h, w).
        stride: of the map, in input pixels.
        operator: adds the coordinates.
    """

    phi: Tensor
    stride: int
    operator: SemiConv

    def at(self, points: list[Tensor]) -> Tensor:
        """Return Psi at points of each image: Phi bilinear, and the exact coordinates.

        Args:
            points: per image, float (Bi, P, 2), x before y, in input pixels.

        Returns:
            float32 (B, D, P), the images one after the other.
        """
        height, width = self.phi.shape[-2:]
        size = to_device((width, height), self.phi.device, torch.float32) * self.stride
        sampled = [
            F.grid_sample(phi[None].float(), (p / size * 2 - 1)[None], padding_mode="border", align_corners=False)[0]
            for phi, p in zip(self.phi, points)
        ]
        phi, coordinates = torch.cat(sampled, 1).transpose(0, 1), torch.cat(points).transpose(1, 2)
        return self.operator.add_coordinates(phi, coordinates)

    def on_boxes(self, boxes: Tensor, counts: list[int], side: int) -> Tensor:
        """Return Psi at the centers of the cells of a grid over each box.

        Args:
            boxes: float (B, 4), XYXY in input pixels.
            counts: number of boxes of each image.
            side: S, cells per side.

        Returns:
            float32 (B, D, S, S).
        """
        cells = box_coordinates(boxes, side).flatten(2).transpose(1, 2)
        return self.at(cells.split(counts)).unflatten(2, (side, side))


def sample_grids(grids: Tensor, boxes: Tensor, points: Tensor) -> Tensor:
    """Sample a grid over each box bilinearly. Outside of the centers of its outer cells it is constant.

    Args:
        grids: float (B, S, S).
        boxes: float (B, 4), XYXY.
        points: float (B, P, 2), x before y, in the same pixels.

    Returns:
        float (B, P).
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3)
    places = (points - boxes[:, None, :2]) / sides[:, None] * 2 - 1
    sampled = F.grid_sample(grids[:, None], places[:, None], padding_mode="border", align_corners=False)
    return sampled[:, 0, 0]


def random_pixels(boxes: Tensor, num_points: int, image_size: tuple[int, int]) -> Tensor:
    """Draw the centers of pixels in each box, uniformly.

    Args:
        boxes: float (B, 4), XYXY in input pixels.
        num_points: P.
        image_size: (H, W), beyond which no pixel is drawn.

    Returns:
        float (B, P, 2), x before y.
    """
    fractions = torch.rand(len(boxes), num_points, 2, device=boxes.device)
    places = boxes[:, None, :2] + (boxes[:, 2:] - boxes[:, :2])[:, None] * fractions
    last = to_device(image_size[::-1], boxes.device, places.dtype) - 1
    return torch.minimum(places.floor().clamp(min=0), last) + 0.5


def most_uncertain(logits: Tensor, points: Tensor, num_points: int) -> Tensor:
    """Choose three quarters of the points where the logits are nearest to 0, and the others as they come.

    Args:
        logits: float (B, C) of candidate points.
        points: float (B, C, 2).
        num_points: P.

    Returns:
        float (B, P, 2).
    """
    num_uncertain = round(_UNCERTAIN_FRACTION * num_points)
    index = logits.abs().topk(num_uncertain, largest=False).indices
    chosen = points.gather(1, index[..., None].expand(-1, -1, 2))
    return torch.cat((chosen, points[:, : num_points - num_uncertain]), 1)


def masks_at(instances: list[Instances], points: list[Tensor]) -> Tensor:
    """Read the ground-truth masks at the centers of pixels.

    Args:
        instances: per image, with ``gt_masks`` of Bi regions in input pixels.
        points: per image, float (Bi, P, 2), x before y.

    Returns:
        bool (B, P).
    """
    values = []
    for image_instances, image_points in zip(instances, points):
        if len(image_instances):
            masks = gt_bit_masks(image_instances).tensor.to(image_points.device, non_blocking=True)
            x, y = image_points.long().unbind(2)
            values.append(masks[torch.arange(len(masks), device=masks.device)[:, None], y, x])
    return torch.cat(values)


class ImageMasks(ROIMasks):
    """Masks of one image's detections, computed where they are pasted.

    Args:
        logits: s, float (N, S, S), over ``boxes``.
        boxes: float (N, 4), XYXY in input pixels.
        seeds: Psi_s, float (N, D).
        embeddings: of this image: Phi (1, D, h, w).
        kernel: module of ``KERNEL_REGISTRY``.
        image_size: (H, W) of the input.
    """

    def __init__(
        self, logits: Tensor, boxes: Tensor, seeds: Tensor, embeddings: EmbeddingMap, kernel: nn.Module,
        image_size: tuple[int, int],
    ) -> None:  # fmt: skip
        super().__init__(logits)
        self.boxes, self.seeds, self.embeddings, self.kernel = boxes, seeds, embeddings, kernel
        self.image_size = image_size

    def __getitem__(self, item: int | slice | Tensor) -> ImageMasks:
        item = slice(item, item + 1 or None) if isinstance(item, int) else item
        return self._with(self.tensor[item], self.boxes[item], self.seeds[item], self.embeddings)

    def to(self, device: torch.device) -> ImageMasks:
        """Move the masks."""
        phi, *others = (x.to(device) for x in (self.embeddings.phi, self.tensor, self.boxes, self.seeds))
        return self._with(*others, EmbeddingMap(phi, self.embeddings.stride, self.embeddings.operator))

    def _with(self, logits: Tensor, boxes: Tensor, seeds: Tensor, embeddings: EmbeddingMap) -> ImageMasks:
        return ImageMasks(logits, boxes, seeds, embeddings, self.kernel, self.image_size)

    @torch.no_grad()
    def to_bitmasks(self, boxes: Boxes, height: int, width: int, threshold: float = 0.5) -> BitMasks:
        """Compute the masks at every pixel of an output image.

        Args:
            boxes: N boxes in pixels of the output; pixels outside of them are background.
            height, width: of the output.
            threshold: pixels with at least this probability belong to a mask.

        Returns:
            Of the output's size.
        """
        masks = torch.zeros((len(self), height, width), dtype=torch.bool, device=self.device)
        if not len(self):
            return BitMasks(masks)
        boxes = boxes.tensor
        scale = to_device((self.image_size[1] / width, self.image_size[0] / height), boxes.device)
        y, x = (torch.arange(n, device=boxes.device, dtype=torch.float32) + 0.5 for n in (height, width))
        centers = torch.stack(torch.meshgrid(x, y, indexing="xy"), 2) * scale  # (height, width, 2), input pixels
        psi = self.embeddings.at([centers.view(1, -1, 2)])[0]
        size = to_device((width, height), boxes.device)
        low = torch.minimum(boxes[:, :2].floor().clamp(min=0), size - 1).long()
        high = torch.maximum(torch.minimum(boxes[:, 2:].ceil(), size).long(), low + 1)
        counts = (high - low).prod(1)
        least = math.log(threshold / (1 - threshold))
        for first, last in _chunks(counts.tolist()):
            index = torch.arange(first, last, device=boxes.device)
            region = torch.repeat_interleave(index, counts[first:last])
            starts = counts[first:last].cumsum(0) - counts[first:last]
            offset = torch.arange(len(region), device=boxes.device) - starts[region - first]
            columns = (high - low)[region, 0]
            column, row = low[region, 0] + offset % columns, low[region, 1] + offset // columns
            pixel = row * width + column
            points = centers.view(-1, 2)[pixel]
            log_kernel = self.kernel(self.seeds[region], psi[:, pixel].T[..., None, None])[:, 0, 0]
            masks[region, row, column] = self._logits_at(region, points) + log_kernel >= least
        return BitMasks(masks)

    def _logits_at(self, region: Tensor, points: Tensor) -> Tensor:
        """Return s of ``region`` (T,) at ``points`` (T, 2), bilinear as :func:`sample_grids`."""
        side = self.tensor.shape[-1]
        boxes = self.boxes[region]
        places = (points - boxes[:, :2]) / (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3) * side - 0.5
        places = places.clamp(0, side - 1)
        before = places.long().clamp(max=max(0, side - 2))
        after = (before + 1).clamp(max=side - 1)
        right, down = (places - before).unbind(1)
        (x0, y0), (x1, y1) = before.unbind(1), after.unbind(1)
        table, first = self.tensor.reshape(-1), region * side * side
        top = table[first + y0 * side + x0].lerp(table[first + y0 * side + x1], right)
        bottom = table[first + y1 * side + x0].lerp(table[first + y1 * side + x1], right)
        return top.lerp(bottom, down)


def _chunks(counts: list[int]) -> list[tuple[int, int]]:
    """Split regions into runs [first, last) with at most ``_MAX_PIXELS`` pixels, or one region."""
    runs, first, total = [], 0, 0
    for i, count in enumerate(counts):
        if total and total + count > _MAX_PIXELS:
            runs.append((first, i))
            first, total = i, 0
        total += count
    return [*runs, (first, len(counts))]
