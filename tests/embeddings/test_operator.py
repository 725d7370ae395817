"""The semi-convolutional operator: coordinates compared with loops, and what the paper says it can and cannot do."""

from __future__ import annotations

from tellapart.embeddings import MIXING_REGISTRY, SemiConv, box_coordinates, map_coordinates

import pytest
import torch
from detectron2.layers import ROIAlign
from random_tensors import random_tensor
from torch import nn
from torch.nn import functional as F


@pytest.mark.parametrize("stride", [1, 4, 32])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (2, 9)])
def test_map_coordinates_equal_a_loop(stride, size):
    coordinates = map_coordinates(size, stride, origin=(7.0, -2.0))
    assert coordinates.shape == (2, *size) and coordinates.dtype == torch.float32
    for row in range(size[0]):
        for column in range(size[1]):
            assert coordinates[0, row, column] == 7 + (column + 0.5) * stride
            assert coordinates[1, row, column] == -2 + (row + 0.5) * stride


def test_box_coordinates_equal_a_loop():
    boxes = torch.tensor([[2.0, 4.0, 10.0, 5.0], [3.0, 3.0, 3.0, 3.0]])
    coordinates = box_coordinates(boxes, 4)
    for r, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        for i in range(4):
            for j in range(4):
                expected = [x0 + (j + 0.5) / 4 * (x1 - x0), y0 + (i + 0.5) / 4 * (y1 - y0)]
                assert coordinates[r, :, i, j].tolist() == expected
    assert box_coordinates(torch.zeros(0, 4), 4).shape == (0, 2, 4, 4)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_levels_and_regions_have_the_same_coordinates(stride):
    """RoI-pooling the coordinates of a map returns the coordinates of the region's cells."""
    coordinates = map_coordinates((64 // stride, 96 // stride), stride)[None]
    boxes = torch.tensor([[20.0, 18.0, 70.0, 44.0], [33.0, 16.5, 47.25, 30.0]])
    rois = torch.cat((torch.zeros(2, 1), boxes), 1)
    pooled = ROIAlign((7, 7), 1 / stride, 2, aligned=True)(coordinates, rois)
    torch.testing.assert_close(pooled, box_coordinates(boxes, 7), atol=1e-4, rtol=0)


def test_crops_and_padding():
    """The map of a crop, given its origin, has the Psi of the whole image. Padding right and below changes nothing."""
    operator, phi = SemiConv(10.0), random_tensor(1, 3, 6, 8).float()
    whole = operator(phi, 4)
    torch.testing.assert_close(operator(phi[:, :, 2:5, 3:7], 4, origin=(12.0, 8.0)), whole[:, :, 2:5, 3:7])
    torch.testing.assert_close(operator(F.pad(phi, (0, 3, 0, 2)), 4)[:, :, :6, :8], whole)


def test_additive_and_convolutional_mixing():
    phi, coordinates = random_tensor(2, 5, 4, 6), map_coordinates((4, 6), 8)
    mixed = SemiConv(16.0)(phi, 8)
    torch.testing.assert_close(mixed[:, :2], phi[:, :2] + coordinates / 16)
    assert torch.equal(mixed[:, 2:], phi[:, 2:])
    assert torch.equal(SemiConv(mixing="convolutional")(phi, 8), phi)
    with pytest.raises(KeyError, match="nothing"):
        SemiConv(mixing="nothing")


def test_registered_mixing_function_is_found_by_name():
    @MIXING_REGISTRY.register()
    def coordinates_only(phi, coordinates):
        return coordinates.expand(len(phi), -1, -1, -1)

    assert torch.equal(SemiConv(1.0, "coordinates_only")(torch.zeros(2, 2, 3, 3), 2)[1], map_coordinates((3, 3), 2))


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (4, 4), (2, 3, 4)])
def test_error_for_wrong_shape_of_phi(shape):
    with pytest.raises(ValueError, match="expected .N, D, H, W. with D >= 2"):
        SemiConv()(torch.zeros(shape), 4)


def test_error_for_wrong_number_of_boxes():
    with pytest.raises(ValueError, match="boxes .3, 4., expected .R, D, S, S."):
        SemiConv().on_boxes(torch.zeros(2, 4, 5, 5), torch.zeros(3, 4))


@pytest.mark.parametrize("shift", [1, 3])
def test_psi_minus_u_is_translation_equivariant(shift):
    """If the image is shifted by whole strides, Phi is shifted, and the coordinates in Psi change by the shift."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 3, stride=4, padding=1).double()
    operator, image, step = SemiConv(1.0), random_tensor(1, 3, 40, 48), 4 * shift
    moved = torch.roll(image, (step, step), (2, 3))
    psi, psi_moved = operator(convolution(image), 4), operator(convolution(moved), 4)
    inner, inner_moved = psi[:, :, 1:-shift, 1:-shift], psi_moved[:, :, 1 + shift :, 1 + shift :]
    torch.testing.assert_close(inner_moved[:, :2], inner[:, :2] + step)
    torch.testing.assert_close(inner_moved[:, 2:], inner[:, 2:])


def test_the_dilemma_in_one_dimension():
    """Section 3.1: for a signal of period 2, a convolution returns the same value at u and u + 2.

    Psi = u + Phi separates the segments, with the paper's Phi = (1 - x) dx/du, a product of convolutions.
    """
    step = 0.1
    u = (torch.arange(60, dtype=torch.float64) + 0.5) * step  # from 0 to 6: segments around 0, 2, 4 and 6
    x = 1 - ((u + 1) % 2 - 1).abs()
    period = round(2 / step)
    for seed in range(5):  # random convolutional networks
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv1d(1, 8, 5), nn.ReLU(), nn.Conv1d(8, 8, 5), nn.Tanh()).double()
        colors = net(x[None, None])[0].T
        torch.testing.assert_close(colors[period:], colors[:-period])
    # one-sided derivative, on the side on which the signal is linear
    ahead, behind = torch.diff(x, append=x[-1:]) / step, torch.diff(x, prepend=x[:1]) / step
    slope = torch.where(ahead.abs() > behind.abs(), ahead, behind)
    phi = torch.stack(((1 - x) * slope, torch.zeros_like(x)))[None, :, None]
    psi = SemiConv(1.0)(phi, step)[0, 0, 0]
    segment = 2 * ((u + 1) / 2).floor()
    torch.testing.assert_close(psi[1:-1], segment[1:-1], atol=1e-6, rtol=0)
    assert len(set(segment.tolist())) == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_psi_is_float32_if_phi_has_half_precision(dtype):
    phi = torch.zeros(1, 2, 3, 334, dtype=dtype)
    psi = SemiConv(1.0)(phi, 4)
    assert torch.equal(psi[0], map_coordinates((3, 334), 4))
    boxes = torch.tensor([[1201.0, 0.0, 1241.0, 40.0]])
    assert torch.equal(SemiConv(1.0).on_boxes(phi[..., :3], boxes), box_coordinates(boxes, 3))


@pytest.mark.parametrize("pixels_per_unit", [0.0, -1.0])
def test_pixels_per_unit_must_be_positive(pixels_per_unit):
    with pytest.raises(ValueError, match="expected a number above 0"):
        SemiConv(pixels_per_unit)
