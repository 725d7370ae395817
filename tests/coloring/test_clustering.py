"""Each clustering on made clusters and against a slow obvious reference."""

from __future__ import annotations

import itertools
import math

from tellapart.coloring.clustering import CLUSTERINGS, kmeans, mean_shift, nearest, seeds

import pytest
import torch

CENTRES = torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, 3, 0], [40, 40, 1], [40, 40, -1]])
SIZES = (30, 5, 12, 40, 8)
OF = torch.arange(5).repeat_interleave(torch.tensor(SIZES))[torch.randperm(95)]  # in any order


def blobs(spread: float = 0.03) -> torch.Tensor:
    """(95, 3): pixel p lies around CENTRES[OF[p]]."""
    return CENTRES[OF] + spread * torch.randn(95, 3, generator=torch.Generator().manual_seed(1))


def in_order(centres: torch.Tensor) -> torch.Tensor:
    return torch.tensor(sorted(centres.tolist()))


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_made_clusters(name):
    """Told their number or not, each finds all five, small ones and those far from the origin as well."""
    pixels = blobs()
    centres = CLUSTERINGS[name](pixels, torch.ones(95), 5 if name == "kmeans" else None, 0.5)
    means = torch.stack([pixels[k == OF].mean(0) for k in range(5)])
    torch.testing.assert_close(in_order(centres), in_order(means), atol=1e-4, rtol=0)
    labels = nearest(pixels, centres)
    assert all(len(labels[k == OF].unique()) == 1 for k in range(5)) and len(labels.unique()) == 5


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_no_pixels(name):
    assert CLUSTERINGS[name](torch.zeros(0, 3), torch.zeros(0), 4, 0.5).shape == (0, 3)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("name", CLUSTERINGS)
def test_few_and_equal_pixels(name):
    """More clusters wanted than pixels; all pixels the same; a single one."""
    two = torch.tensor([[0.0, 1], [5, 5]])
    torch.testing.assert_close(in_order(CLUSTERINGS[name](two, torch.ones(2), 7, 0.5)), two)
    same = torch.full((9, 8), 0.12)
    found = CLUSTERINGS[name](same, torch.ones(9), 3, 0.25)
    torch.testing.assert_close(found, same[: len(found)])
    assert torch.equal(CLUSTERINGS[name](two[:1], torch.ones(1), 1, 0.5), two[:1])


def test_kmeans_is_the_best_partition():
    """Of all partitions of 7 pixels into 3."""
    pixels = torch.randn(7, 2, generator=torch.Generator().manual_seed(2))

    def cost(labels: tuple[int, ...]) -> float:
        parts = [pixels[torch.tensor(labels) == k] for k in set(labels)]
        return sum((part - part.mean(0)).square().sum().item() for part in parts)

    best = min(map(cost, itertools.product(range(3), repeat=7)))
    centres = kmeans(pixels, torch.ones(7), 3, 1.0)
    assert len(centres) == 3 and cost(tuple(nearest(pixels, centres).tolist())) == pytest.approx(best, rel=1e-5)
    assert len(kmeans(pixels, torch.ones(7), 0, 1.0)) == 0


def test_mean_shift_ends_at_fixed_points_of_the_flat_kernel():
    """Each centre is the mean of the pixels within the radius, and every pixel climbs to one of them."""
    pixels = 0.6 * torch.randn(80, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    centres = mean_shift(pixels, torch.ones(80), None, 0.5)
    assert len(centres) > 2
    for centre in centres:
        near = pixels[(pixels - centre).norm(dim=1) <= 0.5]
        assert (near.mean(0) - centre).norm() < 2e-3
    assert torch.pdist(centres).min() > 0.5


def test_mean_shift_of_sparse_pixels_in_eight_dimensions():
    """Pixels farther from each other than the radius are their own modes, none is forgotten."""
    pixels = torch.randn(50, 8, generator=torch.Generator().manual_seed(4)) * 2
    assert torch.pdist(pixels).min() > 0.5
    torch.testing.assert_close(in_order(mean_shift(pixels, torch.ones(50), None, 0.25)), in_order(pixels))
    pixels[1] = pixels[0] = torch.full((8,), 0.12)
    assert len(mean_shift(pixels, torch.ones(50), None, 0.25)) == 49


def slow_seeds(pixels: torch.Tensor, scores: torch.Tensor, radius: float) -> list[list[float]]:
    """Straight from the docstring."""
    left, centres = list(range(len(pixels))), []
    while left:

        def near(p: int, left: list[int] = left) -> list[int]:
            return [q for q in left if math.dist(pixels[p].tolist(), pixels[q].tolist()) <= radius]

        best = max(left, key=lambda p: sum(scores[q].item() for q in near(p)))
        taken = near(best)
        centres.append(pixels[taken].mean(0).tolist())
        left = [q for q in left if q not in taken]
    return centres


def test_seeds_equal_a_loop_over_pixels():
    generator = torch.Generator().manual_seed(5)
    pixels, scores = torch.randn(60, 3, generator=generator), torch.rand(60, generator=generator)
    expected = slow_seeds(pixels, scores, 0.8)
    torch.testing.assert_close(seeds(pixels, scores, None, 0.8), torch.tensor(expected))
    assert len(expected) > 5 and expected != slow_seeds(pixels, torch.ones(60), 0.8), "scores count"


def test_seeds_end_far_from_the_origin_and_on_nan():
    pixels = 1000 + 30 * torch.randn(60, 8, generator=torch.Generator().manual_seed(6))
    assert len(seeds(pixels, torch.ones(60), None, 1e-3)) == 60
    line = torch.full((30, 8), 1000.0)
    line[:, 3] += torch.arange(30) / 2
    assert len(seeds(line, torch.ones(30), None, 0.4)) == 30 and len(seeds(line, torch.ones(30), None, 0.6)) < 30
    pixels[7] = math.nan
    assert len(seeds(pixels, torch.rand(60), None, 0.5)) == 60


def test_nearest_in_chunks():
    pixels, centres = blobs(), CENTRES.flip(0)
    expected = 4 - OF
    for chunk in (1, 7, 95, 96):
        assert torch.equal(nearest(pixels, centres, chunk), expected)
    assert nearest(pixels[:0], centres).shape == (0,) and nearest(pixels[:0], centres).dtype == torch.int64
