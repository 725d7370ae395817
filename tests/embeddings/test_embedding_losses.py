"""The embedding loss compared with a slow loop, and masks sampled on feature maps."""

from __future__ import annotations

import math

from tellapart.embeddings import embedding_loss
from tellapart.embeddings.losses import gt_bit_masks, sample_gt_masks

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks
from random_tensors import random_tensor


def slow_loss(embeddings: torch.Tensor, masks: list[torch.Tensor]) -> float:
    """Equation 5 by loops over pixels, averaged over the instances of at least two pixels."""
    losses = []
    for psi, image_masks in zip(embeddings, masks):
        for mask in image_masks:
            pixels = [psi[:, i, j] for i, j in mask.nonzero().tolist()]
            if len(pixels) >= 2:
                mean = sum(pixels) / len(pixels)
                losses.append(sum((p - mean).norm().item() for p in pixels) / len(pixels))
    return sum(losses) / len(losses)


def example_masks() -> list[torch.Tensor]:
    """Overlapping masks, an image without masks, a mask of a single pixel and an empty mask."""
    no_masks = torch.zeros(0, 6, 7, dtype=torch.bool)
    masks = [random_tensor(3, 6, 7, seed=2) > 0.3, no_masks, random_tensor(3, 6, 7, seed=3) > 0]
    masks[2][1:] = False
    masks[2][2, 3, 3] = True
    return masks


def test_embedding_loss_equals_a_loop():
    psi, masks = random_tensor(3, 4, 6, 7), example_masks()
    assert math.isclose(embedding_loss([psi], [masks]).item(), slow_loss(psi, masks), rel_tol=1e-5)


def test_embedding_loss_of_several_maps_is_the_mean_over_all_instances():
    psi, masks = random_tensor(3, 4, 6, 7), example_masks()
    coarse, coarse_masks = random_tensor(3, 4, 3, 3, seed=5), [random_tensor(g, 3, 3, seed=g) > 0 for g in (1, 2, 0)]
    counts = [sum(int(mask.sum()) >= 2 for m in one for mask in m) for one in (masks, coarse_masks)]
    slow = slow_loss(psi, masks) * counts[0] + slow_loss(coarse, coarse_masks) * counts[1]
    loss = embedding_loss([psi, coarse], [masks, coarse_masks]).item()
    assert math.isclose(loss, slow / sum(counts), rel_tol=1e-5)


def test_embedding_loss_gradient_and_minimum():
    psi, masks = random_tensor(3, 4, 6, 7).float(), example_masks()
    psi.requires_grad_()
    gradient = torch.autograd.grad(embedding_loss([psi], [masks]), psi)[0]
    eps, at = 1e-2, (0, 2, *masks[0][0].nonzero()[0].tolist())
    moved = [psi.detach().clone() for _ in range(2)]
    moved[0][at] += eps
    moved[1][at] -= eps
    numeric = (slow_loss(moved[0], masks) - slow_loss(moved[1], masks)) / (2 * eps)
    assert math.isclose(gradient[at].item(), numeric, rel_tol=1e-2)
    assert not gradient[1].any()
    constant = torch.full_like(psi, 3.0).requires_grad_()
    loss = embedding_loss([constant], [masks])
    assert loss < 1e-5 and torch.isfinite(torch.autograd.grad(loss, constant)[0]).all()


def test_embedding_loss_without_instances_has_a_gradient():
    psi = torch.ones(2, 3, 4, 4, requires_grad=True)
    loss = embedding_loss([psi], [[torch.zeros(0, 4, 4, dtype=torch.bool)] * 2])
    loss.backward()
    assert loss.item() == 0 and not psi.grad.any()


@pytest.mark.parametrize("stride", [1, 4, 8])
def test_masks_are_sampled_at_the_centers_of_map_pixels(stride):
    height, width, size = 21, 30, (-(-32 // stride), -(-32 // stride))
    full = torch.rand(2, height, width, generator=torch.Generator().manual_seed(0)) > 0.5
    sampled = sample_gt_masks(BitMasks(full), stride, size)
    assert sampled.shape == (2, *size) and sampled.dtype == torch.bool
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = i * stride + stride // 2, j * stride + stride // 2
            expected = full[:, y, x] if y < height and x < width else torch.zeros(2, dtype=torch.bool)
            assert torch.equal(sampled[:, i, j], expected)


def test_polygons_are_rasterized_and_sampled():
    polygon = np.array([4.0, 4.0, 20.0, 4.0, 20.0, 12.0, 4.0, 12.0])
    sampled = sample_gt_masks(gt_bit_masks(Instances((16, 24), gt_masks=PolygonMasks([[polygon]]))), 4, (4, 6))
    assert sampled[0].nonzero().tolist() == [[i, j] for i in (1, 2) for j in (1, 2, 3, 4)]
