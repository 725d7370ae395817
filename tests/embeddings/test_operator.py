"""The operator, its kernels and its loss against slow, obvious formulas; what the paper says they can and cannot."""

from __future__ import annotations

import math

from tellapart.embeddings.kernels import hard_seed, soft_seed
from tellapart.embeddings.losses import bit_masks, masks_on_map
from tellapart.embeddings.operator import box_coordinates, map_coordinates, scale_gradient
from tellapart.semiconv import (
    MIXING_REGISTRY,
    GaussianKernel,
    LaplacianKernel,
    SemiConv,
    SteeredBilateralKernel,
    embedding_loss,
)

import numpy as np
import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.structures import BitMasks, Instances, PolygonMasks
from torch import nn
from torch.nn import functional as F


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --------------------------------------------------------------------------------------------------- places


@pytest.mark.parametrize("stride", [1, 4, 32])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (2, 9)])
def test_map_coordinates_equal_a_loop(stride, size):
    places = map_coordinates(size, stride, origin=(7.0, -2.0))
    assert places.shape == (2, *size) and places.dtype == torch.float32
    for row in range(size[0]):
        for column in range(size[1]):
            assert places[0, row, column] == 7 + (column + 0.5) * stride
            assert places[1, row, column] == -2 + (row + 0.5) * stride


def test_box_coordinates_equal_a_loop():
    boxes = torch.tensor([[2.0, 4.0, 10.0, 5.0], [3.0, 3.0, 3.0, 3.0]])
    places = box_coordinates(boxes, 4)
    for r, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        for i in range(4):
            for j in range(4):
                assert places[r, :, i, j].tolist() == [x0 + (j + 0.5) / 4 * (x1 - x0), y0 + (i + 0.5) / 4 * (y1 - y0)]
    assert box_coordinates(torch.zeros(0, 4), 4).shape == (0, 2, 4, 4)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_all_levels_and_regions_agree_about_a_place(stride):
    """ROIAlign of a map's own coordinates gives the places of the region's cells: one frame for all."""
    places = map_coordinates((64 // stride, 96 // stride), stride)[None]
    boxes = torch.tensor([[20.0, 18.0, 70.0, 44.0], [33.0, 16.5, 47.25, 30.0]])
    rois = torch.cat((torch.zeros(2, 1), boxes), 1)
    pooled = ROIAlign((7, 7), 1 / stride, 2, aligned=True)(places, rois)
    torch.testing.assert_close(pooled, box_coordinates(boxes, 7), atol=1e-4, rtol=0)


def test_crops_resized_images_and_padding():
    """A crop's map with its origin says what the whole image's says; padding right and below changes nothing."""
    operator, phi = SemiConv(10.0), random(1, 3, 6, 8).float()
    whole = operator(phi, 4)
    torch.testing.assert_close(operator(phi[:, :, 2:5, 3:7], 4, origin=(12.0, 8.0)), whole[:, :, 2:5, 3:7])
    torch.testing.assert_close(operator(F.pad(phi, (0, 3, 0, 2)), 4)[:, :, :6, :8], whole)


def test_mixing():
    phi, places = random(2, 5, 4, 6), map_coordinates((4, 6), 8)
    mixed = SemiConv(16.0)(phi, 8)
    torch.testing.assert_close(mixed[:, :2], phi[:, :2] + places / 16)
    assert torch.equal(mixed[:, 2:], phi[:, 2:])
    assert torch.equal(SemiConv(mixing="convolutional")(phi, 8), phi)
    with pytest.raises(KeyError, match="nothing"):
        SemiConv(mixing="nothing")


def test_another_mixing_function_by_name():
    @MIXING_REGISTRY.register()
    def only_places(embeddings, coordinates):
        return coordinates.expand(len(embeddings), -1, -1, -1)

    assert torch.equal(SemiConv(1.0, "only_places")(torch.zeros(2, 2, 3, 3), 2)[1], map_coordinates((3, 3), 2))


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (4, 4), (2, 3, 4)])
def test_wrong_shapes_are_named(shape):
    with pytest.raises(ValueError, match="wanted .N, D, H, W. with D >= 2"):
        SemiConv()(torch.zeros(shape), 4)


def test_wrong_boxes_are_named():
    with pytest.raises(ValueError, match="of boxes .3, 4., wanted .R, D, S, S."):
        SemiConv().on_boxes(torch.zeros(2, 4, 5, 5), torch.zeros(3, 4))


@pytest.mark.parametrize("shift", [1, 3])
def test_psi_minus_u_is_translation_equivariant(shift):
    """An image shifted by whole strides: the convolution's share moves along, Psi differs by the shift."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 3, stride=4, padding=1).double()
    operator, image, step = SemiConv(1.0), random(1, 3, 40, 48), 4 * shift
    moved = torch.roll(image, (step, step), (2, 3))
    psi, psi_moved = operator(convolution(image), 4), operator(convolution(moved), 4)
    inner, inner_moved = psi[:, :, 1:-shift, 1:-shift], psi_moved[:, :, 1 + shift :, 1 + shift :]
    torch.testing.assert_close(inner_moved[:, :2], inner[:, :2] + step)
    torch.testing.assert_close(inner_moved[:, 2:], inner[:, 2:])


def test_the_dilemma_in_one_dimension():
    """Section 3.1: of a signal of period 2 a convolution gives u and u + 2 the same; Psi = u + Phi tells segments apart
    with the paper's Phi = (1 - x) dx/du, which is made of convolutions and products of them."""
    step = 0.1
    u = (torch.arange(60, dtype=torch.float64) + 0.5) * step  # 0 to 6: segments around 0, 2, 4, 6
    x = 1 - ((u + 1) % 2 - 1).abs()
    period = round(2 / step)
    for seed in range(5):  # any convolutions, however deep
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv1d(1, 8, 5), nn.ReLU(), nn.Conv1d(8, 8, 5), nn.Tanh()).double()
        colours = net(x[None, None])[0].T
        torch.testing.assert_close(colours[period:], colours[:-period])
    # the derivative to the side on which the signal is straight
    ahead, behind = torch.diff(x, append=x[-1:]) / step, torch.diff(x, prepend=x[:1]) / step
    slope = torch.where(ahead.abs() > behind.abs(), ahead, behind)
    phi = torch.stack(((1 - x) * slope, torch.zeros_like(x)))[None, :, None]
    psi = SemiConv(1.0)(phi, step)[0, 0, 0]
    segment = 2 * ((u + 1) / 2).floor()
    torch.testing.assert_close(psi[1:-1], segment[1:-1], atol=1e-6, rtol=0)
    assert len(set(segment.tolist())) == 4


def test_scaled_gradient():
    x = random(2, 3).requires_grad_()
    y = scale_gradient(x, 0.1)
    assert torch.equal(y, x)
    (y**2).sum().backward()
    torch.testing.assert_close(x.grad, 0.2 * x.detach())


# -------------------------------------------------------------------------------------------------- kernels


def test_kernels_equal_their_formulas():
    seeds, pixels = random(2, 5), random(2, 5, 3, 4, seed=1)
    laplacian, gaussian = LaplacianKernel(0.7).double(), GaussianKernel(1.3)
    bilateral = SteeredBilateralKernel(2.5).double()
    for n in range(2):
        for i in range(3):
            for j in range(4):
                d = pixels[n, :, i, j] - seeds[n]
                square, near, alike = float(d @ d), float(d[:2] @ d[:2]), float(d[2:] @ d[2:])
                expected = {
                    laplacian: math.exp(-math.sqrt(square) / 0.7),
                    gaussian: math.exp(-square / (2 * 1.3**2)),
                    bilateral: math.exp(-near / (2 * 2.5**2)) * math.exp(-alike / 2),
                }
                for kernel, value in expected.items():
                    assert math.isclose(kernel(seeds, pixels)[n, i, j].exp().item(), value, rel_tol=1e-6)


@pytest.mark.parametrize("kernel", [LaplacianKernel(), GaussianKernel(), SteeredBilateralKernel()], ids=type)
def test_kernels_do_not_underflow_and_have_gradients(kernel):
    kernel = kernel.double()
    seeds, pixels = random(2, 4).requires_grad_(), random(2, 4, 3, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(kernel, (seeds, pixels))
    far = kernel(seeds, pixels * 1e4)
    assert torch.isfinite(far).all() and (far < -1e3).all()
    same = kernel(seeds, seeds.detach()[:, :, None, None].expand(-1, -1, 3, 2).requires_grad_())
    assert same.abs().max() <= 1e-5
    same.sum().backward()
    assert torch.isfinite(seeds.grad).all()
    assert kernel(seeds[:0], pixels[:0]).shape == (0, 3, 2)


def test_steered_bilateral_of_width_one_is_gaussian():
    seeds, pixels = random(1, 6), random(1, 6, 4, 4, seed=1)
    torch.testing.assert_close(SteeredBilateralKernel().double()(seeds, pixels), GaussianKernel()(seeds, pixels))


@pytest.mark.parametrize("sigma", [0.0, -1.0])
@pytest.mark.parametrize("kernel", [LaplacianKernel, GaussianKernel, SteeredBilateralKernel, SemiConv])
def test_widths_must_be_positive(kernel, sigma):
    with pytest.raises(ValueError, match="wanted above 0"):
        kernel(sigma)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_places_are_float32_of_half_precision(dtype):
    phi = torch.zeros(1, 2, 3, 334, dtype=dtype)
    psi = SemiConv(1.0)(phi, 4)
    assert torch.equal(psi[0], map_coordinates((3, 334), 4))
    boxes = torch.tensor([[1201.0, 0.0, 1241.0, 40.0]])
    assert torch.equal(SemiConv(1.0).on_boxes(phi[..., :3], boxes), box_coordinates(boxes, 3))


def test_seeds():
    logits, pixels = random(3, 4, 5), random(3, 2, 4, 5, seed=1)
    for n in range(3):
        shares, expected = logits[n].exp() / logits[n].exp().sum(), torch.zeros(2, dtype=torch.float64)
        best = (-math.inf, None)
        for i in range(4):
            for j in range(5):
                expected += shares[i, j] * pixels[n, :, i, j]
                best = max(best, (logits[n, i, j].item(), (i, j)))
        torch.testing.assert_close(soft_seed(logits, pixels)[n], expected)
        assert torch.equal(hard_seed(logits, pixels)[n], pixels[n, :, best[1][0], best[1][1]])
    torch.testing.assert_close(soft_seed(logits * 1e4, pixels), hard_seed(logits, pixels))
    assert soft_seed(logits[:0], pixels[:0]).shape == hard_seed(logits[:0], pixels[:0]).shape == (0, 2)


# ----------------------------------------------------------------------------------------------------- loss


def slow_loss(embeddings: torch.Tensor, masks: list[torch.Tensor]) -> float:
    losses = []
    for psi, image_masks in zip(embeddings, masks):
        for mask in image_masks:
            pixels = [psi[:, i, j] for i, j in mask.nonzero().tolist()]
            if len(pixels) >= 2:
                mean = sum(pixels) / len(pixels)
                losses.append(sum((p - mean).norm().item() for p in pixels) / len(pixels))
    return sum(losses) / len(losses)


def some_masks() -> list[torch.Tensor]:
    """Overlapping ones, an image without any, one of a single pixel and an empty one."""
    masks = [random(3, 6, 7, seed=2) > 0.3, torch.zeros(0, 6, 7, dtype=torch.bool), random(3, 6, 7, seed=3) > 0]
    masks[2][1:] = False
    masks[2][2, 3, 3] = True
    return masks


def test_embedding_loss_equals_a_loop():
    psi, masks = random(3, 4, 6, 7), some_masks()
    assert math.isclose(embedding_loss([psi], [masks]).item(), slow_loss(psi, masks), rel_tol=1e-5)


def test_embedding_loss_of_several_maps_is_the_mean_over_their_instances():
    psi, masks = random(3, 4, 6, 7), some_masks()
    coarse, coarse_masks = random(3, 4, 3, 3, seed=5), [random(g, 3, 3, seed=g) > 0 for g in (1, 2, 0)]
    counts = [sum(int(mask.sum()) >= 2 for m in one for mask in m) for one in (masks, coarse_masks)]
    slow = slow_loss(psi, masks) * counts[0] + slow_loss(coarse, coarse_masks) * counts[1]
    got = embedding_loss([psi, coarse], [masks, coarse_masks]).item()
    assert math.isclose(got, slow / sum(counts), rel_tol=1e-5)


def test_embedding_loss_gradient_and_minimum():
    psi, masks = random(3, 4, 6, 7).float(), some_masks()
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
def test_masks_on_a_map_take_the_pixel_in_the_middle(stride):
    height, width, size = 21, 30, (-(-32 // stride), -(-32 // stride))
    full = torch.rand(2, height, width, generator=torch.Generator().manual_seed(0)) > 0.5
    seen = masks_on_map(BitMasks(full), stride, size)
    assert seen.shape == (2, *size) and seen.dtype == torch.bool
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = i * stride + stride // 2, j * stride + stride // 2
            expected = full[:, y, x] if y < height and x < width else torch.zeros(2, dtype=torch.bool)
            assert torch.equal(seen[:, i, j], expected)


def test_polygons_on_a_map():
    polygon = np.array([4.0, 4.0, 20.0, 4.0, 20.0, 12.0, 4.0, 12.0])
    seen = masks_on_map(bit_masks(Instances((16, 24), gt_masks=PolygonMasks([[polygon]]))), 4, (4, 6))
    assert seen[0].nonzero().tolist() == [[i, j] for i in (1, 2) for j in (1, 2, 3, 4)]
