"""Data loaders: unreadable images are reported by name, and training resumes exactly.

Detectron2's training loader restarts its stream of images after ``--resume``, and its augmentations depend on the state
of each worker's random generators. Here the n-th sample of a run, both the image and its augmentation, depends only on
the seed and on n. A run that stopped after any iteration continues with the same batches when
``loader.batch_sampler.start_batch`` is set to that iteration, for any number of workers. Dataset dicts, mapper and
samplers are Detectron2's.
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
from detectron2.data import DatasetFromList, build_detection_test_loader
from detectron2.data.build import filter_images_with_only_crowd_annotations, print_instances_class_histogram
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from .content import DatasetContent
from .copy_paste import CopyPaste
from .image_reading import ImageReader
from .mapper import UNREADABLE, GuardedMapper, build_mapper
from .reader import read_dataset, release_dataset

# Key of a sample that replaces unreadable ones; its value is {file name: reason}.
_SKIPPED = "skipped_unreadable"


def guard(batches: Iterable[list[dict]], skip_bad: bool) -> Iterator[list[dict]]:
    """Yield the batches of a loader whose mapper is a :class:`GuardedMapper`, without unreadable samples.

    Args:
        batches: of the loader.
        skip_bad: warn once per unreadable image instead of raising.

    Raises:
        InputError: an image cannot be read and ``skip_bad`` is False.
    """
    skipped: set[str] = set()
    try:
        for batch in batches:
            for sample in batch:
                problems = sample.pop(_SKIPPED, {})
                if UNREADABLE in sample:
                    problems = {**problems, sample["file_name"]: sample[UNREADABLE]}
                _report(problems, skip_bad, skipped)
            batch = [sample for sample in batch if UNREADABLE not in sample]
            if batch:
                yield batch
    finally:
        # Stop the DataLoader's workers now. Otherwise the error's traceback keeps them alive until the reference cycle
        # is collected, where PyTorch waits five seconds per worker before it kills them.
        del batches


def _report(problems: dict[str, str], skip_bad: bool, skipped: set[str]) -> None:
    for file_name, problem in problems.items():
        if not skip_bad:
            hint = "DATALOADER.SKIP_BAD_IMAGES True skips such images"
            raise InputError(f"Image {file_name} cannot be read: {problem} ({hint})")
        if file_name not in skipped:
            skipped.add(file_name)
            logging.getLogger(__name__).warning(
                "Skipping image %s, which cannot be read: %s (%d skipped so far)", file_name, problem, len(skipped)
            )


class GuardedLoader:
    """A test loader with a :class:`GuardedMapper`, iterated through :func:`guard`. Its length is the loader's."""

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
    """Build Detectron2's test loader for one data set, with a clear error for unreadable images.

    With ``DATALOADER.SKIP_BAD_IMAGES`` there is no prediction for such an image, so the evaluator counts all of its
    objects as missed. If ``MODEL.COLORING.CLUSTERING`` is "kmeans", each input also has ``gt_num_instances``, the
    number of annotations that are not crowds.

    Raises:
        InputError: while iterating, for an unreadable image, unless ``DATALOADER.SKIP_BAD_IMAGES``.
    """
    guarded = GuardedMapper(mapper or build_mapper(cfg, False), ImageReader.from_cfg(cfg))
    dicts = read_datasets(cfg, [dataset_name])[dataset_name].records
    if cfg.MODEL.COLORING.CLUSTERING == "kmeans":  # counted here, because the mapper drops the annotations
        dicts = [
            {**record, "gt_num_instances": sum(not a.get("iscrowd", 0) for a in record.get("annotations", ()))}
            for record in dicts
        ]
    loader = build_detection_test_loader(dicts, mapper=guarded, num_workers=cfg.DATALOADER.NUM_WORKERS)
    return GuardedLoader(loader, cfg.DATALOADER.SKIP_BAD_IMAGES)


class ResumableBatchSampler(Sampler):
    """Infinite batches of (position, index) pairs for this process.

    ``position`` numbers the samples of the whole run over all processes, and seeds their augmentation. ``index`` is the
    index into the dataset.

    Attributes:
        start_batch: number of batches that the next iteration over the sampler skips, without loading them.
    """

    def __init__(self, indices: Iterable[int], batch_size: int, groups: np.ndarray | None = None) -> None:
        """
        Args:
            indices: the infinite stream of dataset indices of this process, the same at every iteration over it.
            batch_size: samples per batch in this process.
            groups: group per dataset index, int (len(dataset),). A batch has indices of one group. None: one group.
        """
        self.indices = indices
        self.batch_size = batch_size
        self.groups = groups
        self.start_batch = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rank, world = comm.get_rank(), comm.get_world_size()
        unfinished: dict[int, list[tuple[int, int]]] = {}
        num_batches = 0
        for count, index in enumerate(self.indices):
            group = 0 if self.groups is None else int(self.groups[index])
            batch = unfinished.setdefault(group, [])
            batch.append((count * world + rank, int(index)))
            if len(batch) == self.batch_size:
                del unfinished[group]
                num_batches += 1
                if num_batches > self.start_batch:
                    yield batch


class PositionSeededDataset(Dataset):
    """Maps (position, index) to a training sample whose randomness depends only on (seed, position)."""

    def __init__(
        self, dicts: Any, mapper: GuardedMapper, seed: int, skip_bad: bool, copy_paste: CopyPaste | None = None
    ) -> None:
        """
        Args:
            dicts: dataset dicts by index; every access returns a new copy.
            mapper: may draw from ``random``, ``numpy.random`` and torch's CPU generator. It may return None for an
                image that is to be replaced by the next one, as Detectron2's mappers do.
            seed: of the run.
            skip_bad: replace an unreadable image by the next one.
            copy_paste: applied to every sample, if given.
        """
        self.dicts = dicts
        self.mapper = mapper
        self.seed = seed
        self.skip_bad = skip_bad
        self.copy_paste = copy_paste

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, item: tuple[int, int]) -> dict:
        position, index = item
        skipped: dict[str, str] = {}
        for step in range(len(self.dicts)):
            with _seeded(self.seed, position):
                sample = self._load(index + step)
                if self.copy_paste is not None and sample is not None and UNREADABLE not in sample:
                    sample = self.copy_paste(sample, index + step, len(self.dicts), self._load)
            if sample is None:
                continue
            if UNREADABLE in sample and self.skip_bad:
                skipped[sample["file_name"]] = sample[UNREADABLE]
                continue
            return {**sample, _SKIPPED: skipped} if skipped else sample
        raise InputError(f"None of the {len(self.dicts)} training images can be used")

    def _load(self, index: int) -> dict | None:
        return self.mapper(self.dicts[index % len(self.dicts)])


@contextmanager
def _seeded(seed: int, position: int) -> Iterator[None]:
    """Seed ``random``, ``numpy.random`` and torch's CPU generator, and restore their states at the end.

    Without workers, samples are loaded in the training process, whose random state must not change.
    """
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    words = np.random.SeedSequence([seed, position]).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.default_generator.manual_seed(int(words[2]) << 32 | int(words[3]))  # torch.manual_seed would also seed CUDA
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])


class ResumableLoader(DataLoader):
    """A DataLoader of lists of samples, iterated through :func:`guard`, starting at ``batch_sampler.start_batch``."""

    def __init__(self, dataset: PositionSeededDataset, batch_sampler: ResumableBatchSampler, num_workers: int) -> None:
        # Without its own generator, the DataLoader draws the workers' base seed from torch's global generator.
        generator = torch.Generator().manual_seed(dataset.seed)
        super().__init__(
            dataset, batch_sampler=batch_sampler, num_workers=num_workers, collate_fn=_as_list, generator=generator
        )

    def __iter__(self) -> Iterator[list[dict]]:
        return guard(super().__iter__(), self.dataset.skip_bad)


def _as_list(samples: list[dict]) -> list[dict]:
    return samples


def build_resumable_train_loader(cfg: CfgNode, mapper: Callable[[dict], dict] | None = None) -> ResumableLoader:
    """Build a training loader, used like that of ``build_detection_train_loader``, that can resume exactly.

    It reads Detectron2's keys ``DATASETS.TRAIN``, ``DATALOADER``, ``SOLVER.IMS_PER_BATCH`` and ``INPUT``. To resume
    exactly, ``SEED`` must be at least 0 and the number of processes the same.

    Args:
        cfg: the config.
        mapper: dataset dict -> model input; default :func:`tellapart.data.mapper.build_mapper`.

    Raises:
        InputError: a data set is missing, broken or empty, or the batch size is not divisible by the number of
            processes. While iterating: an image cannot be read (unless ``DATALOADER.SKIP_BAD_IMAGES``).
    """
    dicts, has_rle, names = read_training_records(cfg)
    world = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH % world:
        batch_size = cfg.SOLVER.IMS_PER_BATCH
        raise InputError(f"SOLVER.IMS_PER_BATCH is {batch_size}, expected a multiple of the {world} processes")
    if mapper is None:
        mapper = build_mapper(follow_mask_format(cfg, has_rle), True)
    guarded = GuardedMapper(mapper, ImageReader.from_cfg(cfg))
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    groups = None
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        groups = np.array([one["width"] > one["height"] for one in dicts], dtype=np.int8)
    sampler = ResumableBatchSampler(_build_sampler(cfg, dicts, seed), cfg.SOLVER.IMS_PER_BATCH // world, groups)
    probability = cfg.INPUT.AUGMENTATION.COPY_PASTE
    dataset = PositionSeededDataset(
        DatasetFromList(dicts), guarded, seed, cfg.DATALOADER.SKIP_BAD_IMAGES,
        CopyPaste(probability) if probability > 0 else None,
    )  # fmt: skip
    for name in names:
        release_dataset(name, cfg.MODEL.MASK_ON)
    return ResumableLoader(dataset, sampler, cfg.DATALOADER.NUM_WORKERS)


def read_datasets(cfg: CfgNode, names: Iterable[str]) -> dict[str, DatasetContent]:
    """Read data sets as ``cfg`` needs them, by name; see ``read_dataset``.

    Raises:
        InputError: see ``read_dataset``; or ``MODEL.MASK_ON`` is True and no annotation of a data set has a mask.
    """
    contents = {}
    for name in (names,) if isinstance(names, str) else names:
        content = read_dataset(name, masks=cfg.MODEL.MASK_ON, bad_annotations=cfg.DATALOADER.BAD_ANNOTATIONS)
        if cfg.MODEL.MASK_ON and content.has_annotations and not content.has_masks:
            raise InputError(
                f"MODEL.MASK_ON is True, but the annotations of data set {name} have no 'segmentation': a model of "
                "boxes, such as Mask R-CNN with MODEL.MASK_ON False, can be trained on them"
            )
        contents[name] = content
    return contents


def read_training_records(cfg: CfgNode) -> tuple[list[dict], bool, list[str]]:
    """Read ``cfg.DATASETS.TRAIN`` and log the number of objects per category.

    Returns:
        The records of all data sets, without those of images that have no objects if
        ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``; whether any mask is an RLE; and the names of the data sets.

    Raises:
        InputError: see ``read_dataset``; or there is nothing to train on.
    """
    contents = list(read_datasets(cfg, cfg.DATASETS.TRAIN).values())
    for content in contents:
        content.check_trainable(cfg.MODEL.MASK_ON)
    records = [record for content in contents for record in content.records]
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = filter_images_with_only_crowd_annotations(records)
    print_instances_class_histogram(records, contents[0].classes)
    return records, any(content.has_rle for content in contents), [content.name for content in contents]


def follow_mask_format(cfg: CfgNode, has_rle: bool) -> CfgNode:
    """Return ``cfg`` or, if its ``INPUT.MASK_FORMAT`` cannot hold the masks, a copy with the one that can."""
    if not (has_rle and cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon"):
        return cfg
    logging.getLogger(__name__).info("INPUT.MASK_FORMAT is polygon, but there are RLE masks: using bitmask")
    return _with_input(cfg, "MASK_FORMAT", "bitmask")


def follow_bit_depth(cfg: CfgNode, train_depths: Iterable[int]) -> CfgNode:
    """Return ``cfg`` or, if no training image has 8 bits, a copy that names the scaling of ``INPUT.SCALING`` auto.

    The run's config then scales 8-bit images as well, if the model is used on some later.

    Args:
        cfg: the config.
        train_depths: bits per sample of training images.
    """
    depths = set(train_depths)
    if cfg.INPUT.SCALING not in (None, "auto") or not depths or min(depths) <= 8:
        return cfg
    logging.getLogger(__name__).info("training images have %s bits: INPUT.SCALING auto -> percentile", sorted(depths))
    return _with_input(cfg, "SCALING", "percentile")


def _with_input(cfg: CfgNode, key: str, value: str) -> CfgNode:
    """Return a copy of ``cfg`` that is not frozen and has another value of a key below ``INPUT``."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT[key] = value
    return cfg


def _build_sampler(cfg: CfgNode, dicts: list[dict], seed: int) -> Iterable[int]:
    kind = cfg.DATALOADER.SAMPLER_TRAIN
    if kind == "TrainingSampler":
        return TrainingSampler(len(dicts), seed=seed)
    if kind == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dicts, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    raise InputError(f"DATALOADER.SAMPLER_TRAIN is {kind}, expected TrainingSampler or RepeatFactorTrainingSampler")
