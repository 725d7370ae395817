"""
Loaders that name the image they can't read, and a training loader that goes on exactly where a stopped run ended.

Detectron2's own training loader starts its stream of images anew after `--resume`, and draws augmentations from
generators whose state depends on the worker. Here everything about the n-th sample of a run, which image it is and how
it is augmented, follows from the seed and n alone. So a run stopped after any iteration, resumed with
`loader.batch_sampler.start_batch = iteration`, gets the very batches that it would have got, for any number of workers.
The parts are Detectron2's: its dataset dicts, mapper and samplers.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tellapart.errors import InputError

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import detection_utils as utils
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from .coco_folder import check_dataset

_UNREADABLE = "unreadable"  # key of a sample that stands for an image that can't be read: why
_SKIPPED = "skipped_unreadable"  # key, in the sample that took their place, of such images: {file: why}


class GuardedMapper:
    """
    A mapper (dataset dict -> model input) that does not raise where an image can't be read: it returns a sample that
    says so, which `guard` takes out of the batches again. So the error reaches the main process as one message,
    whichever worker found it. Other errors of the mapper pass through.
    """

    def __init__(self, mapper: Callable[[dict], dict]) -> None:
        self.mapper = mapper

    def __call__(self, dataset_dict: dict) -> dict:
        try:
            return self.mapper(dataset_dict)
        except Exception:
            fault = _reading_fault(dataset_dict)  # looked for only now: a second reading of every image would be slow
            if not fault:
                raise
            return {"file_name": dataset_dict["file_name"], _UNREADABLE: fault}


def _reading_fault(dataset_dict: dict) -> str:
    """Why the image of a dataset dict can't be read, or ""."""
    try:
        utils.check_image_size(dataset_dict, utils.read_image(dataset_dict["file_name"]))
    except Exception as error:  # Pillow raises a dozen kinds for a broken file
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def guard(batches: Iterable[list[dict]], skip_bad: bool) -> Iterator[list[dict]]:
    """
    Passes on the batches of a loader whose mapper is a `GuardedMapper`, without the samples that can't be read.

    Raises:
        InputError: unless `skip_bad`: the first image that can't be read. With `skip_bad` it is named in one warning.
    """
    skipped: set[str] = set()
    try:
        for batch in batches:
            for sample in batch:
                faults = sample.pop(_SKIPPED, {})
                if _UNREADABLE in sample:
                    faults = {**faults, sample["file_name"]: sample[_UNREADABLE]}
                _report(faults, skip_bad, skipped)
            batch = [sample for sample in batch if _UNREADABLE not in sample]
            if batch:
                yield batch
    finally:
        # Stops a DataLoader's workers here and now. Else the error's traceback would keep them until they are collected
        # as part of a reference cycle, where PyTorch waits for five seconds for each before it ends them by force.
        del batches


def _report(faults: dict[str, str], skip_bad: bool, skipped: set[str]) -> None:
    for file_name, fault in faults.items():
        if not skip_bad:
            hint = "DATALOADER.SKIP_BAD_IMAGES True leaves such images out"
            raise InputError(f"Can't read image {file_name}: {fault} ({hint})")
        if file_name not in skipped:
            skipped.add(file_name)
            logging.getLogger(__name__).warning(
                "Skipping image %s, which can't be read: %s (%d skipped so far)", file_name, fault, len(skipped)
            )


class GuardedLoader:
    """A test loader, made with a `GuardedMapper`, seen through `guard`. `len` is that of the loader."""

    def __init__(self, loader: DataLoader, skip_bad: bool) -> None:
        self.loader = loader
        self.dataset = loader.dataset
        self.skip_bad = skip_bad

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict]]:
        return guard(self.loader, self.skip_bad)


def build_guarded_test_loader(
    cfg: CfgNode, dataset_name: str, mapper: Callable[[dict], dict] | None = None
) -> GuardedLoader:
    """
    Detectron2's test loader for one data set, but an unreadable image raises an InputError that names it. Under
    `DATALOADER.SKIP_BAD_IMAGES` it is left out instead: no prediction is made for it, so that the evaluator counts all
    of its objects as missed.

    If `MODEL.COLORING.CLUSTERING` is "kmeans", each input also has `gt_num_instances`, the number of annotations that
    are not crowds.
    """
    check_dataset(dataset_name)
    guarded = GuardedMapper(mapper or DatasetMapper(cfg, False))
    dicts = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    if cfg.MODEL.COLORING.CLUSTERING == "kmeans":  # counted here, because the mapper drops the annotations
        dicts = [
            {**record, "gt_num_instances": sum(not a.get("iscrowd", 0) for a in record.get("annotations", ()))}
            for record in dicts
        ]
    loader = build_detection_test_loader(dicts, mapper=guarded, num_workers=cfg.DATALOADER.NUM_WORKERS)
    return GuardedLoader(loader, cfg.DATALOADER.SKIP_BAD_IMAGES)


class ResumableBatchSampler(Sampler):
    """
    Endless batches of (position, index) pairs for this process. `position` numbers the samples of the whole run over
    all processes and tells the dataset how to seed its augmentation; `index` is into the dataset.

    Attributes:
        start_batch: the next iteration over the sampler leaves out this many batches, at no cost but counting.
    """

    def __init__(self, indices: Iterable[int], batch_size: int, groups: np.ndarray | None = None) -> None:
        """
        Args:
            indices: the endless stream of dataset indices of this process, the same every time it is iterated over.
            batch_size: samples per batch in this process.
            groups: int (len(dataset),); a batch holds indices of one group only. None: all are of one.
        """
        self.indices = indices
        self.batch_size = batch_size
        self.groups = groups
        self.start_batch = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rank, world = comm.get_rank(), comm.get_world_size()
        waiting: dict[int, list[tuple[int, int]]] = {}
        done = 0
        for count, index in enumerate(self.indices):
            group = 0 if self.groups is None else int(self.groups[index])
            batch = waiting.setdefault(group, [])
            batch.append((count * world + rank, int(index)))
            if len(batch) == self.batch_size:
                del waiting[group]
                done += 1
                if done > self.start_batch:
                    yield batch


class PositionSeededDataset(Dataset):
    """Maps (position, index) to a training sample whose randomness follows from (seed, position) alone."""

    def __init__(self, dicts: Any, mapper: Callable[[dict], dict], seed: int, skip_bad: bool) -> None:
        """
        Args:
            dicts: dataset dicts by index, a fresh copy at every access.
            mapper: may draw from `random`, `numpy.random` and torch's CPU generator, or return None, which Detectron2's
                mappers do for an image that they don't want.
            seed: of the run.
            skip_bad: whether an image that can't be read is replaced by the next one.
        """
        self.dicts = dicts
        self.mapper = GuardedMapper(mapper)
        self.seed = seed
        self.skip_bad = skip_bad

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, item: tuple[int, int]) -> dict:
        position, index = item
        skipped: dict[str, str] = {}
        for step in range(len(self.dicts)):
            with _seeded(self.seed, position):
                sample = self.mapper(self.dicts[(index + step) % len(self.dicts)])
            if sample is None:
                continue
            if _UNREADABLE in sample and self.skip_bad:
                skipped[sample["file_name"]] = sample[_UNREADABLE]
                continue
            return {**sample, _SKIPPED: skipped} if skipped else sample
        raise InputError(f"None of the {len(self.dicts)} training images can be used")


@contextmanager
def _seeded(seed: int, position: int) -> Iterator[None]:
    """Seeds `random`, `numpy.random` and torch's CPU generator, and puts back their state at the end: without workers
    the sample is made in the process that trains, whose own randomness must not change with that."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    words = np.random.SeedSequence([seed, position]).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.default_generator.manual_seed(int(words[2]) << 32 | int(words[3]))  # torch.manual_seed would reach for CUDA
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])


class ResumableLoader(DataLoader):
    """A DataLoader of lists of samples, seen through `guard`; `batch_sampler.start_batch` says where it begins."""

    def __init__(self, dataset: PositionSeededDataset, batch_sampler: ResumableBatchSampler, num_workers: int) -> None:
        # its own generator: by default, starting the workers takes a number from torch's global one
        generator = torch.Generator().manual_seed(dataset.seed)
        super().__init__(
            dataset, batch_sampler=batch_sampler, num_workers=num_workers, collate_fn=_as_list, generator=generator
        )

    def __iter__(self) -> Iterator[list[dict]]:
        return guard(super().__iter__(), self.dataset.skip_bad)


def _as_list(samples: list[dict]) -> list[dict]:
    return samples


def build_resumable_train_loader(cfg: CfgNode, mapper: Callable[[dict], dict] | None = None) -> ResumableLoader:
    """
    A training loader by Detectron2's keys `DATASETS.TRAIN`, `DATALOADER`, `SOLVER.IMS_PER_BATCH` and `INPUT`, to be
    used like `build_detection_train_loader`'s. Exact resumption needs `SEED` >= 0 and the same number of processes.

    Args:
        mapper: dataset dict -> model input; default `DatasetMapper(cfg, True)`.

    Raises:
        InputError: a data set that is missing, broken or empty, or a batch that the processes can't share evenly.
            While iterating: an image that can't be read (unless `DATALOADER.SKIP_BAD_IMAGES`).
    """
    for name in cfg.DATASETS.TRAIN:
        check_dataset(name)
    world = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH % world:
        raise InputError(f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} can't be shared by {world} processes")
    try:
        dicts = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    except AssertionError as error:  # Detectron2's way to say that no image is left
        raise InputError(f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)}: {error}") from error
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    groups = None
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        groups = np.array([one["width"] > one["height"] for one in dicts], dtype=np.int8)
    sampler = ResumableBatchSampler(_build_sampler(cfg, dicts, seed), cfg.SOLVER.IMS_PER_BATCH // world, groups)
    dataset = PositionSeededDataset(
        DatasetFromList(dicts), mapper or DatasetMapper(cfg, True), seed, cfg.DATALOADER.SKIP_BAD_IMAGES
    )
    return ResumableLoader(dataset, sampler, cfg.DATALOADER.NUM_WORKERS)


def _build_sampler(cfg: CfgNode, dicts: list[dict], seed: int) -> Iterable[int]:
    kind = cfg.DATALOADER.SAMPLER_TRAIN
    if kind == "TrainingSampler":
        return TrainingSampler(len(dicts), seed=seed)
    if kind == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dicts, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    raise InputError(f"DATALOADER.SAMPLER_TRAIN is {kind}, wanted TrainingSampler or RepeatFactorTrainingSampler")
