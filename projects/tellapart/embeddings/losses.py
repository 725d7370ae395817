"""The embedding loss, which pulls the embeddings of an instance's pixels together (section 3.2, equation 5)."""

from __future__ import annotations

import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor
from torch.nn import functional as F

from ..autograd import zero_with_grad
from ..loss_share import loss_share
from .kernels import safe_norm


def gt_bit_masks(targets: Instances) -> BitMasks:
    """Return the ``gt_masks`` of an image as bit masks, polygons rasterized in the image's size.

    Without instances, the image needs no field ``gt_masks``.
    """
    if not len(targets):
        return BitMasks(torch.zeros((0, *targets.image_size), dtype=torch.bool))
    gt_masks = targets.gt_masks
    if isinstance(gt_masks, BitMasks):
        return gt_masks
    return BitMasks.from_polygon_masks(gt_masks, *targets.image_size)


def sample_gt_masks(gt_masks: BitMasks, stride: int, map_size: tuple[int, int]) -> Tensor:
    """Sample ground-truth masks at the centers of a feature map's pixels.

    A thin instance keeps every map pixel whose center it covers. Thresholding the covered area would lose most of them.

    Args:
        gt_masks: masks of G instances in the size of the input image.
        stride: stride of the feature map, in input pixels.
        map_size: (H, W) of the feature map. Map pixels to the right of the image or below it are padding and False.

    Returns:
        bool (G, H, W).
    """
    height, width = map_size
    sampled = gt_masks.tensor[:, stride // 2 :: stride, stride // 2 :: stride][:, :height, :width]
    return F.pad(sampled, (0, width - sampled.shape[2], 0, height - sampled.shape[1]))


def instance_embedding_losses(embeddings: Tensor, gt_masks: list[Tensor]) -> Tensor:
    """Compute the loss of each instance, 1/|S| sum_{u in S} ||Psi_u - mean_S Psi||.

    The norm is not squared. The loss only attracts: nothing pushes the embeddings of different instances apart.

    Args:
        embeddings: Psi of N images, float (N, D, H, W).
        gt_masks: per image, bool (G, H, W). Masks may overlap.

    Returns:
        float32 (K,), in the order of the instances, without those that cover fewer than two pixels.
    """
    embeddings = embeddings.float()
    image_index = torch.cat([torch.full((len(m),), i, device=m.device) for i, m in enumerate(gt_masks)])
    instance_index, y, x = torch.cat(gt_masks).nonzero().unbind(1)
    num_pixels = torch.cat([m.flatten(1).sum(1) for m in gt_masks]).to(embeddings)
    pixel_embeddings = embeddings[image_index[instance_index], :, y, x]
    means = embeddings.new_zeros(len(image_index), embeddings.shape[1]).index_add(0, instance_index, pixel_embeddings)
    means = means / num_pixels.clamp(min=1)[:, None]
    distances = safe_norm(pixel_embeddings - means[instance_index])
    distance_sums = embeddings.new_zeros(len(image_index)).index_add(0, instance_index, distances)
    return (distance_sums / num_pixels.clamp(min=1))[num_pixels >= 2]


def embedding_loss(embeddings: list[Tensor], gt_masks: list[list[Tensor]]) -> Tensor:
    """Average the loss of equation 5 over all instances of all feature maps, of all processes.

    The paper sums over the instances. The mean keeps a crowded image from outweighing the other losses.

    Args:
        embeddings: Psi per feature map, float (N, D, Hi, Wi).
        gt_masks: per feature map and image, bool (G, Hi, Wi).

    Returns:
        Scalar, float32. Without instances it is 0 and its gradient is 0.
    """
    losses_per_map = [instance_embedding_losses(psi, masks) for psi, masks in zip(embeddings, gt_masks)]
    instance_losses = torch.cat(losses_per_map)
    mean = instance_losses.sum() / max(1, len(instance_losses))
    return mean * loss_share(len(instance_losses), mean) + zero_with_grad(embeddings)
