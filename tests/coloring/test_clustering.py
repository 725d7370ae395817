"""Each clustering on known clusters and compared with a slow reference."""

from __future__ import annotations

import itertools
import math

from tellapart.coloring import clustering
from tellapart.coloring.clustering import CLUSTERINGS, kmeans, mean_shift, nearest_center_index, seed_and_affinity

import pytest
import torch

CENTERS = torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, 3, 0], [40, 40, 1], [40, 40, -1]])
SIZES = (30, 5, 12, 40, 8)
CENTER_INDEX = torch.arange(5).repeat_interleave(torch.tensor(SIZES))[torch.randperm(95)]  # in random order


def blobs(spread: float = 0.03) -> torch.Tensor:
    """Pixels (95, 3), pixel p near CENTERS[CENTER_INDEX[p]]."""
    return CENTERS[CENTER_INDEX] + spread * torch.randn(95, 3, generator=torch.Generator().manual_seed(1))


def sorted_rows(centers: torch.Tensor) -> torch.Tensor:
    return torch.tensor(sorted(centers.tolist()))


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_known_clusters(name):
    """All five are found, small ones and those far from the origin too, whether the number is given or not."""
    pixels = blobs()
    centers = CLUSTERINGS[name](pixels, torch.ones(95), 5 if name == "kmeans" else None, 0.5)
    means = torch.stack([pixels[k == CENTER_INDEX].mean(0) for k in range(5)])
    torch.testing.assert_close(sorted_rows(centers), sorted_rows(means), atol=1e-4, rtol=0)
    labels = nearest_center_index(pixels, centers)
    assert all(len(labels[k == CENTER_INDEX].unique()) == 1 for k in range(5)) and len(labels.unique()) == 5


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_no_pixels(name):
    assert CLUSTERINGS[name](torch.zeros(0, 3), torch.zeros(0), 4, 0.5).shape == (0, 3)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("name", CLUSTERINGS)
def test_few_and_equal_pixels(name):
    """More clusters than pixels are asked for, all pixels are equal, or there is a single pixel."""
    two = torch.tensor([[0.0, 1], [5, 5]])
    torch.testing.assert_close(sorted_rows(CLUSTERINGS[name](two, torch.ones(2), 7, 0.5)), two)
    same = torch.full((9, 8), 0.12)
    centers = CLUSTERINGS[name](same, torch.ones(9), 3, 0.25)
    torch.testing.assert_close(centers, same[: len(centers)])
    assert torch.equal(CLUSTERINGS[name](two[:1], torch.ones(1), 1, 0.5), two[:1])


def test_kmeans_is_the_best_partition():
    """Compared with all partitions of 7 pixels into 3 clusters."""
    pixels = torch.randn(7, 2, generator=torch.Generator().manual_seed(2))

    def cost(labels: tuple[int, ...]) -> float:
        clusters = [pixels[torch.tensor(labels) == k] for k in set(labels)]
        return sum((cluster - cluster.mean(0)).square().sum().item() for cluster in clusters)

    best = min(map(cost, itertools.product(range(3), repeat=7)))
    centers = kmeans(pixels, torch.ones(7), 3, 1.0)
    labels = tuple(nearest_center_index(pixels, centers).tolist())
    assert len(centers) == 3 and cost(labels) == pytest.approx(best, rel=1e-5)
    assert len(kmeans(pixels, torch.ones(7), 0, 1.0)) == 0


def test_mean_shift_ends_at_fixed_points_of_the_flat_kernel():
    """Each center is the mean of the pixels within the radius."""
    pixels = 0.6 * torch.randn(80, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    centers = mean_shift(pixels, torch.ones(80), None, 0.5)
    assert len(centers) > 2
    for center in centers:
        near = pixels[(pixels - center).norm(dim=1) <= 0.5]
        assert (near.mean(0) - center).norm() < 2e-3
    assert torch.pdist(centers).min() > 0.5


def test_mean_shift_of_sparse_pixels_in_eight_dimensions():
    """If all pixels are farther apart than the radius, each is a mode."""
    pixels = torch.randn(50, 8, generator=torch.Generator().manual_seed(4)) * 2
    assert torch.pdist(pixels).min() > 0.5
    torch.testing.assert_close(sorted_rows(mean_shift(pixels, torch.ones(50), None, 0.25)), sorted_rows(pixels))
    pixels[1] = pixels[0] = torch.full((8,), 0.12)
    assert len(mean_shift(pixels, torch.ones(50), None, 0.25)) == 49


def slow_seed_and_affinity(pixels: torch.Tensor, scores: torch.Tensor, radius: float) -> list[list[float]]:
    """The docstring of ``seed_and_affinity`` as loops over pixels."""
    remaining, centers = list(range(len(pixels))), []
    while remaining:

        def near(p: int, remaining: list[int] = remaining) -> list[int]:
            return [q for q in remaining if math.dist(pixels[p].tolist(), pixels[q].tolist()) <= radius]

        seed = max(remaining, key=lambda p: sum(scores[q].item() for q in near(p)))
        members = near(seed)
        centers.append(pixels[members].mean(0).tolist())
        remaining = [q for q in remaining if q not in members]
    return centers


def test_seed_and_affinity_equals_a_loop_over_pixels():
    generator = torch.Generator().manual_seed(5)
    pixels, scores = torch.randn(60, 3, generator=generator), torch.rand(60, generator=generator)
    expected = slow_seed_and_affinity(pixels, scores, 0.8)
    torch.testing.assert_close(seed_and_affinity(pixels, scores, None, 0.8), torch.tensor(expected))
    assert len(expected) > 5
    assert expected != slow_seed_and_affinity(pixels, torch.ones(60), 0.8), "the scores make a difference"


def test_seed_and_affinity_ends_far_from_the_origin_and_with_nan():
    pixels = 1000 + 30 * torch.randn(60, 8, generator=torch.Generator().manual_seed(6))
    assert len(seed_and_affinity(pixels, torch.ones(60), None, 1e-3)) == 60
    line = torch.full((30, 8), 1000.0)
    line[:, 3] += torch.arange(30) / 2
    assert len(seed_and_affinity(line, torch.ones(30), None, 0.4)) == 30
    assert len(seed_and_affinity(line, torch.ones(30), None, 0.6)) < 30
    pixels[7] = math.nan
    assert len(seed_and_affinity(pixels, torch.rand(60), None, 0.5)) == 60


def test_seed_and_affinity_in_bounded_memory(monkeypatch):
    """Joined to cells, the clusters are those of the pixels, up to the size of a cell."""
    generator = torch.Generator().manual_seed(7)
    means = 20 * torch.rand(12, 4, generator=generator)
    sizes = torch.randint(5, 200, (12,), generator=generator)
    index = torch.arange(12).repeat_interleave(sizes)
    pixels = means[index] + 0.1 * torch.randn(len(index), 4, generator=generator)
    scores = torch.rand(len(index), generator=generator)
    exact = seed_and_affinity(pixels, scores, None, 1.0)
    for limits in ({"_MAX_PAIRS": 300}, {"_MAX_CELLS": 100}):
        with monkeypatch.context() as patch:
            for name, value in limits.items():
                patch.setattr(clustering, name, value)
            centers = seed_and_affinity(pixels, scores, None, 1.0)
        assert centers.shape == exact.shape == (12, 4)
        torch.testing.assert_close(centers, exact, atol=0.05, rtol=0)  # the same order, of falling support
        assert torch.equal(nearest_center_index(pixels, centers), nearest_center_index(pixels, exact))


def test_nearest_center_index():
    pixels, centers = blobs(), CENTERS.flip(0)
    assert torch.equal(nearest_center_index(pixels, centers), 4 - CENTER_INDEX)
    random = torch.randn(500, 3, generator=torch.Generator().manual_seed(8))
    assert torch.equal(nearest_center_index(random, centers), torch.cdist(random, centers).argmin(1))
    empty = nearest_center_index(pixels[:0], centers)
    assert empty.shape == (0,) and empty.dtype == torch.int64
    pixels[3] = math.nan
    assert nearest_center_index(pixels, centers).min() >= 0 and nearest_center_index(pixels, centers).max() <= 4
