"""Samplers for training, which are endless, and for inference.

All processes generate the same sequence for training. Process r of W takes its elements r, r + W, r + 2W, ...
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch.utils.data.sampler import Sampler

from detectron2.utils import comm

logger = logging.getLogger(__name__)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class _StreamSampler(Sampler):
    """An endless sequence of epochs, the same in all processes, of which each process takes its part."""

    def __init__(self, shuffle: bool, seed: int | None) -> None:
        self._shuffle = shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        """Return the indices of the next epoch before shuffling, int64 (n,)."""
        raise NotImplementedError(f"{type(self).__name__} must define _epoch()")

    def _stream(self) -> Iterator[int]:
        generator = _generator(self._seed)
        while True:
            indices = self._epoch(generator)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._stream(), self._rank, None, self._world_size)


class TrainingSampler(_StreamSampler):
    """Sample every index below ``size`` once per epoch, endlessly.

    Args:
        size: number of elements of the dataset.
        shuffle: shuffle each epoch. Otherwise the indices are in order.
        seed: seed, the same in all processes. None draws one in the main process and shares it.
    """

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        if not isinstance(size, int):
            raise TypeError(f"{type(self).__name__}(size=) expects an int. Got type {type(size)}.")
        if size <= 0:
            raise ValueError(f"{type(self).__name__}(size=) expects a positive int. Got {size}.")
        super().__init__(shuffle, seed)
        self._all = torch.arange(size)

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return self._all


class RepeatFactorTrainingSampler(_StreamSampler):
    """Like `TrainingSampler`, but element i appears ``repeat_factors[i]`` times per epoch.

    Fractional factors are rounded up or down at random in each epoch, so that their mean is kept.
    """

    def __init__(self, repeat_factors: torch.Tensor, *, shuffle: bool = True, seed: int | None = None) -> None:
        super().__init__(shuffle, seed)
        self._whole = torch.trunc(repeat_factors)
        self._fraction = repeat_factors - self._whole

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        up = torch.rand(len(self._fraction), generator=generator) < self._fraction
        return torch.repeat_interleave(torch.arange(len(up)), (self._whole + up).long())

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: list[dict], repeat_thresh: float, sqrt: bool = True
    ) -> torch.Tensor:
        """Return LVIS's repeat factors: an image has the factor of its rarest category.

        The factor of a category in a fraction f of the images is ``max(1, sqrt(repeat_thresh / f))``, without the
        square root if ``sqrt`` is False.

        Returns:
            Float32 (number of images,).
        """
        present = [{a["category_id"] for a in d["annotations"]} for d in dataset_dicts]
        counts = Counter(itertools.chain.from_iterable(present))
        factors = {}
        for category, count in sorted(counts.items()):
            ratio = repeat_thresh * len(dataset_dicts) / count
            factors[category] = max(1.0, math.sqrt(ratio) if sqrt else ratio)
            logger.info(f"Cat ID {category}: freq={count / len(dataset_dicts):.2f}, rep={factors[category]:.2f}")
        return torch.tensor([max((factors[c] for c in s), default=1.0) for s in present], dtype=torch.float32)


class InferenceSampler(Sampler):
    """Sample ``range(size)`` once, in order. Process r of W takes the r-th of W consecutive parts.

    The parts have equal lengths, or the first ones are longer by one.
    """

    def __init__(self, size: int) -> None:
        assert size > 0, f"size of InferenceSampler is {size}, expected a positive number"
        share, longer = divmod(size, comm.get_world_size())
        rank = comm.get_rank()
        begin = rank * share + min(rank, longer)
        self._indices = range(begin, begin + share + (rank < longer))

    def __iter__(self) -> Iterator[int]:
        yield from self._indices

    def __len__(self) -> int:
        return len(self._indices)
