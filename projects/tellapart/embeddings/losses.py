"""What pulls the embeddings of an instance's pixels together (section 3.2, equation 5)."""

from __future__ import annotations

import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor
from torch.nn import functional as F

from ..autograd import zero_with_grad


def bit_masks(truth: Instances) -> BitMasks:
    """The ``gt_masks`` of an image, drawn if they are polygons; without instances there need not be any."""
    if not len(truth):
        return BitMasks(torch.zeros((0, *truth.image_size), dtype=torch.bool))
    masks = truth.gt_masks
    return masks if isinstance(masks, BitMasks) else BitMasks.from_polygon_masks(masks, *truth.image_size)


def masks_on_map(gt_masks: BitMasks, stride: int, size: tuple[int, int]) -> Tensor:
    """Ground truth at the centres of a map's pixels.

    A thin instance keeps the pixels whose centres it covers; by area most of its pixels would not be its own.

    Args:
        gt_masks: G masks in the input image.
        stride: input pixels a map pixel.
        size: (H, W) of the map; what lies right of and below the image is padding.

    Returns:
        bool (G, H, W).
    """
    seen = gt_masks.tensor[:, stride // 2 :: stride, stride // 2 :: stride][:, : size[0], : size[1]]
    return F.pad(seen, (0, size[1] - seen.shape[2], 0, size[0] - seen.shape[1]))


def spreads(embeddings: Tensor, masks: list[Tensor]) -> Tensor:
    """Of each instance 1/|S| sum_{u in S} ||Psi_u - mean_S Psi||, the norm, not its square: attraction only.

    Args:
        embeddings: Psi, (N, D, H, W).
        masks: of each image, bool (G, H, W). Masks may overlap.

    Returns:
        float32, one for each instance of two pixels or more, in order. Smaller ones are too small for this map.
    """
    embeddings = embeddings.float()
    image = torch.cat([torch.full((len(m),), i, device=m.device) for i, m in enumerate(masks)])
    instance, y, x = torch.cat(masks).nonzero().unbind(1)
    counts = torch.bincount(instance, minlength=len(image)).to(embeddings)
    pixels = embeddings[image[instance], :, y, x]
    means = embeddings.new_zeros(len(image), embeddings.shape[1]).index_add(0, instance, pixels)
    means = means / counts.clamp(min=1)[:, None]
    # the smallest number under the root gives a pixel on its mean a slope of 0 instead of none
    distances = ((pixels - means[instance]).square().sum(1) + 1e-12).sqrt()
    sums = embeddings.new_zeros(len(image)).index_add(0, instance, distances)
    return (sums / counts.clamp(min=1))[counts >= 2]


def embedding_loss(embeddings: list[Tensor], masks: list[list[Tensor]]) -> Tensor:
    """The mean of ``spreads`` over all instances of all maps. Equation 5 is their sum; the mean does not outweigh the
    other losses in a crowded image.

    Args:
        embeddings: Psi of each map, (N, D, Hi, Wi).
        masks: for each map what ``spreads`` takes.

    Returns:
        A scalar, float32; 0 (with a gradient of 0) without instances.
    """
    found = torch.cat([spreads(psi, of_map) for psi, of_map in zip(embeddings, masks)])
    return found.sum() / max(1, len(found)) + zero_with_grad(embeddings)
