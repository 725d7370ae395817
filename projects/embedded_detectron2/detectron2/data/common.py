"""Dataset wrappers: a compact list, a mapped one, a sampled stream, and batches of like aspect ratio."""

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
    """A function that can be sent to another process, even a lambda or a local one, which ``pickle`` refuses."""

    def __init__(self, function: Callable) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __reduce__(self) -> tuple:
        import cloudpickle  # needed only where worker processes are spawned

        return pickle.loads, (cloudpickle.dumps(self._function),)


class _MapIterable(torchdata.IterableDataset):
    """`MapDataset` over a stream: elements mapped to None are left out."""

    def __init__(self, dataset, map_func: Callable) -> None:
        self._dataset, self._map_func = dataset, _AnyProcess(map_func)

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator:
        return (x for x in map(self._map_func, self._dataset) if x is not None)


class MapDataset(torchdata.Dataset):
    """``map_func`` over the elements of ``dataset``; over an iterable dataset the result is iterable too.

    ``map_func`` may return None to skip an element: a stream goes on to the next one, a map-style dataset gives a
    randomly drawn other element instead.
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
                raise RuntimeError(f"none of the dataset's {len(self)} elements could be loaded")
            current = self._rng.sample(list(self._usable), k=1)[0]
            if failures >= 3:
                logger.warning(f"Failed to apply `_map_func` for idx: {idx}, retry count: {failures}")


class DatasetFromList(torchdata.Dataset):
    """A list as a dataset.

    Args:
        lst: the elements.
        copy: give deep copies, so that a caller may change what it gets.
        serialize: keep the elements pickled in one array, which worker processes share instead of each copying the
            list when it touches its reference counts.
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
        idx = range(len(self))[idx]  # negative numbers, IndexError
        return pickle.loads(memoryview(self._lst[self._ends[idx - 1] if idx else 0 : self._ends[idx]]))


class ToIterableDataset(torchdata.IterableDataset):
    """The stream ``dataset[i] for i in sampler``.

    Args:
        dataset: map-style.
        sampler: gives indices.
        shard_sampler: split the indices over the data loader's workers, which otherwise all give the same ones.
        shard_chunk_size: so many consecutive indices go to one worker.
    """

    def __init__(self, dataset, sampler, shard_sampler: bool = True, shard_chunk_size: int = 1) -> None:
        assert not isinstance(dataset, torchdata.IterableDataset), "the dataset is iterable already"
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
    """Batches (lists of ``batch_size``) of images that are all wide or all not, which need less padding.

    Elements of ``dataset`` are dicts with "width" and "height".
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
