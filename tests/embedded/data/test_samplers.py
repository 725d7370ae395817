"""Samplers: the indices of an epoch, seeds, and the split over processes."""

import itertools
import math

import tellapart  # noqa: F401

import pytest
import torch
from detectron2.data.samplers import (
    InferenceSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm


def take(sampler, n):
    return [int(i) for i in itertools.islice(iter(sampler), n)]


@pytest.fixture
def as_process(monkeypatch):
    """A function that makes this process look like process ``rank`` of ``world``."""

    def pretend(rank, world):
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: world)

    return pretend


def test_training_epochs_are_permutations_that_the_seed_determines():
    stream = take(TrainingSampler(5, seed=3), 15)
    assert stream[:13] == [1, 0, 3, 4, 2, 0, 1, 2, 4, 3, 1, 4, 3]  # recorded under the real Detectron2
    assert all(sorted(stream[i : i + 5]) == list(range(5)) for i in (0, 5, 10))
    assert take(TrainingSampler(5, seed=4), 15) != stream
    assert take(TrainingSampler(3, shuffle=False, seed=3), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_sampler_can_be_iterated_again():
    sampler = TrainingSampler(5, seed=3)
    assert take(sampler, 9) == take(sampler, 9)


def test_processes_split_one_sequence(as_process):
    whole = take(TrainingSampler(7, seed=1), 30)
    for rank in range(3):
        as_process(rank, 3)
        assert take(TrainingSampler(7, seed=1), 10) == whole[rank::3]


def test_invalid_sizes_are_refused():
    with pytest.raises(ValueError, match="positive int"):
        TrainingSampler(0)
    with pytest.raises(TypeError, match="expects an int"):
        TrainingSampler(2.0)


def test_repeat_factor_is_that_of_the_rarest_category():
    records = [{"annotations": [{"category_id": c} for c in cs]} for cs in ([0], [0, 1], [0, 0], [0], [])]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, 0.9)
    common, rare = math.sqrt(0.9 / (4 / 5)), math.sqrt(0.9 / (1 / 5))
    torch.testing.assert_close(factors, torch.tensor([common, rare, common, common, 1.0]))
    plain = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, 0.5, sqrt=False)
    torch.testing.assert_close(plain, torch.tensor([1.0, 2.5, 1.0, 1.0, 1.0]))


def test_repeat_factor_sampler():
    factors = torch.tensor([1.0, 1.5, 2.3])
    stream = take(RepeatFactorTrainingSampler(factors, seed=3), 20)
    assert stream == [2, 1, 1, 0, 2, 2, 2, 0, 1, 2, 0, 1, 1, 2, 2, 2, 1, 2, 2, 0]  # recorded under the real Detectron2
    counts = torch.bincount(torch.tensor(take(RepeatFactorTrainingSampler(factors, seed=0), 24000))).float()
    torch.testing.assert_close(counts / counts[0], factors, rtol=0.03, atol=0)
    assert take(RepeatFactorTrainingSampler(torch.ones(4), shuffle=False, seed=0), 8) == [0, 1, 2, 3] * 2


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_inference_samples_every_index_once_in_order(world, as_process):
    parts = []
    for rank in range(world):
        as_process(rank, world)
        sampler = InferenceSampler(7)
        parts.append(take(sampler, 99))
        assert len(sampler) == len(parts[-1])
    assert sum(parts, []) == list(range(7))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
