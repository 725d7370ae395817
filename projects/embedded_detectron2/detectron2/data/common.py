"""Datasets made from lists, by a mapping, by a sampler, and grouped by aspect ratio."""

from __future__ import annotations

import copy
import itertools
import logging
import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch.utils.data as torchdata

logger = logging.getLogger(__name__)


class _AnyProcess:
    """A function that can be sent to another process, even a lambda or a local function."""

    def __init__(self, function: Callable) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __reduce__(self) -> tuple:
        import cloudpickle  # needed only where worker processes are spawned

        return pickle.loads, (cloudpickle.dumps(self._function),)


class _MapIterable(torchdata.IterableDataset):
    """`MapDataset` over an iterable dataset. Elements that are mapped to None are left out."""

    def __init__(self, dataset, map_func: Callable) -> None:
        self._dataset, self._map_func = dataset, _AnyProcess(map_func)

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator:
        return (x for x in map(self._map_func, self._dataset) if x is not None)


class MapDataset(torchdata.Dataset):
    """Apply ``map_func`` to the elements of ``dataset``. The result is iterable if ``dataset`` is.

    ``map_func`` may return None to skip an element. Then an iterable dataset continues with the next element, and a
    map-style dataset returns another element, chosen at random.
    """

    def __new__(cls, dataset, map_func: Callable):
        if isinstance(dataset, torchdata.IterableDataset):
            return _MapIterable(dataset, map_func)
        return super().__new__(cls)

    def __getnewargs__(self) -> tuple:
        return self._dataset, self._map_func

    def __init__(self, dataset, map_func: Callable) -> None:
        self._dataset, self._map_func = dataset, _AnyProcess(map_func)
        self._rng = random.Random(42)
        self._usable = set(range(len(dataset)))

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int):
        current = int(idx)
        for failures in itertools.count(1):
            data = self._map_func(self._dataset[current])
            if data is not None:
                self._usable.add(current)
                return data
            self._usable.discard(current)
            if not self._usable:
                raise RuntimeError(f"the mapper returned None for all {len(self)} elements of the dataset")
            current = self._rng.sample(list(self._usable), k=1)[0]
            if failures >= 3:
                logger.warning(f"Failed to apply `_map_func` for idx: {idx}, retry count: {failures}")


class DatasetFromList(torchdata.Dataset):
    """A list as a dataset.

    Args:
        lst: the elements.
        copy: return deep copies, which callers may change.
        serialize: keep the elements pickled in one array. Forked worker processes share its memory, whereas they would
            copy a list, because reading it changes reference counts.
    """

    def __init__(self, lst: list, copy: bool = True, serialize: bool = True) -> None:
        self._copy, self._serialize, self._lst = copy, serialize, lst
        if not serialize:
            return
        logger.info(f"Serializing {len(lst)} elements to byte tensors and concatenating them all ...")
        pickled = [np.frombuffer(pickle.dumps(x, protocol=-1), dtype=np.uint8) for x in lst]
        self._ends = np.cumsum([len(x) for x in pickled], dtype=np.int64)
        self._lst = np.concatenate(pickled) if pickled else np.zeros(0, dtype=np.uint8)
        logger.info(f"Serialized dataset takes {len(self._lst) / 1024**2:.2f} MiB")

    def __len__(self) -> int:
        return len(self._ends) if self._serialize else len(self._lst)

    def __getitem__(self, idx: int):
        if not self._serialize:
            return copy.deepcopy(self._lst[idx]) if self._copy else self._lst[idx]
        idx = range(len(self))[idx]  # handles negative indices, raises IndexError
        return pickle.loads(memoryview(self._lst[self._ends[idx - 1] if idx else 0 : self._ends[idx]]))


class ToIterableDataset(torchdata.IterableDataset):
    """Iterate over ``dataset[i]`` for the indices i of a sampler.

    Args:
        dataset: map-style dataset.
        sampler: sampler of indices.
        shard_sampler: split the indices over the data loader's workers. Otherwise every worker returns all of them.
        shard_chunk_size: number of consecutive indices that one worker receives.
    """

    def __init__(self, dataset, sampler, shard_sampler: bool = True, shard_chunk_size: int = 1) -> None:
        assert not isinstance(dataset, torchdata.IterableDataset), "dataset is iterable, expected a map-style one"
        self.dataset, self.sampler = dataset, sampler
        self.shard_sampler, self.shard_chunk_size = shard_sampler, shard_chunk_size

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator:
        worker = torchdata.get_worker_info()
        indices: Any = self.sampler
        if self.shard_sampler and worker is not None:
            chunk, workers = self.shard_chunk_size, worker.num_workers
            indices = (i for n, i in enumerate(self.sampler) if n // chunk % workers == worker.id)
        for i in indices:
            yield self.dataset[i]


class AspectRatioGroupedDataset(torchdata.IterableDataset):
    """Group images into batches that are all wider than high or all not, so that they need less padding.

    Elements of ``dataset`` are dicts with "width" and "height". Batches are lists of ``batch_size`` elements.
    """

    def __init__(self, dataset, batch_size: int) -> None:
        self.dataset, self.batch_size = dataset, batch_size

    def __iter__(self) -> Iterator[list]:
        groups: dict[bool, list] = {True: [], False: []}
        for d in self.dataset:
            group = groups[d["width"] > d["height"]]
            group.append(d)
            if len(group) == self.batch_size:
                yield list(group)
                group.clear()
