"""Build data loaders from a config or from explicit arguments."""

from __future__ import annotations

import itertools
import logging
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils.data as torchdata
from tabulate import tabulate

from detectron2.config import configurable
from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import log_first_n

from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper
from .detection_utils import check_metadata_consistency
from .samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler

logger = logging.getLogger(__name__)


def filter_images_with_only_crowd_annotations(dataset_dicts: list[dict]) -> list[dict]:
    """Return the images that have at least one annotation that is not a crowd."""
    kept = [d for d in dataset_dicts if any(a.get("iscrowd", 0) == 0 for a in d["annotations"])]
    removed = len(dataset_dicts) - len(kept)
    logger.info(f"Removed {removed} images with no usable annotations. {len(kept)} images left.")
    return kept


def print_instances_class_histogram(dataset_dicts: list[dict], class_names: list[str]) -> None:
    """Log a table of the number of instances per class, without crowds.

    Raises:
        AssertionError: a category id is not in [0, number of classes).
    """
    annotations = itertools.chain.from_iterable(d["annotations"] for d in dataset_dicts)
    classes = np.array([a["category_id"] for a in annotations if not a.get("iscrowd", 0)], dtype=np.int64)
    count = len(class_names)
    wrong = classes[(classes < 0) | (classes >= count)]
    assert not len(wrong), f"Got an invalid category_id={wrong[0]} for a dataset of {count} classes"
    histogram = np.bincount(classes, minlength=count)
    short = [name if len(name) <= 13 else name[:11] + ".." for name in class_names]
    columns = min(6, count * 2)
    data: list[Any] = list(itertools.chain.from_iterable(zip(short, histogram.tolist())))
    data.extend([None] * (columns - len(data) % columns))
    data.extend(["total", len(classes)])
    data.extend([None] * (-len(data) % columns))
    rows = [data[i : i + columns] for i in range(0, len(data), columns)]
    headers = ["category", "#instances"] * (columns // 2)
    table = tabulate(rows, headers=headers, tablefmt="pipe", numalign="left", stralign="center")
    message = f"Distribution of instances among all {count} categories:\n{table}"
    log_first_n(logging.INFO, message, key="message")


def get_detection_dataset_dicts(
    names: str | Sequence[str], filter_empty: bool = True, *, check_consistency: bool = True
) -> list[dict]:
    """Return the dataset dicts of one or several registered datasets as one list.

    Args:
        names: names of the datasets.
        filter_empty: leave out images whose annotations are all crowds, and images without annotations.
        check_consistency: check that all datasets have the same "thing_classes", and log the instances per class.

    Raises:
        KeyError: a dataset is not registered.
        AssertionError: a dataset is empty, or no image is left.
        ValueError: the datasets have different "thing_classes".
    """
    names = [names] if isinstance(names, str) else list(names)
    assert names, "names is empty, expected at least one dataset"
    per_dataset = [DatasetCatalog.get(name) for name in names]
    for name, dicts in zip(names, per_dataset):
        assert len(dicts), f"Dataset '{name}' is empty!"
    dataset_dicts = list(itertools.chain.from_iterable(per_dataset))
    has_instances = "annotations" in dataset_dicts[0]
    if filter_empty and has_instances:
        dataset_dicts = filter_images_with_only_crowd_annotations(dataset_dicts)
    if check_consistency and has_instances and MetadataCatalog.get(names[0]).get("thing_classes") is not None:
        check_metadata_consistency("thing_classes", names)
        print_instances_class_histogram(dataset_dicts, MetadataCatalog.get(names[0]).thing_classes)
    assert dataset_dicts, f"No valid data found in {', '.join(names)}."
    return dataset_dicts


def trivial_batch_collator(batch: list) -> list:
    """Return the batch unchanged."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed a worker's generators from torch's seed, which differs between workers and epochs."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)


def build_batch_data_loader(
    dataset,
    sampler,
    total_batch_size: int,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
    drop_last: bool = True,
    seed: int | None = None,
    **kwargs: Any,
):
    """Build a data loader of batches with ``total_batch_size / number of processes`` elements.

    Args:
        dataset: map-style or iterable dataset.
        sampler: sampler of the indices of a map-style dataset, None for an iterable one.
        total_batch_size: batch size over all processes.
        aspect_ratio_grouping: see `AspectRatioGroupedDataset`.
        num_workers: number of worker processes.
        collate_fn: function from a list of elements to a batch. By default the batch is the list.
        drop_last: drop an incomplete last batch. Always True with ``aspect_ratio_grouping``.
        seed: seed of the workers. None uses torch's.
        kwargs: further arguments of ``torch.utils.data.DataLoader``.

    Raises:
        AssertionError: the batch size is not a positive multiple of the number of processes.
    """
    world_size = get_world_size()
    assert total_batch_size > 0 and total_batch_size % world_size == 0, (
        f"Total batch size ({total_batch_size}) must be divisible by the number of gpus ({world_size})."
    )
    batch_size = total_batch_size // world_size
    logger.info(f"Making batched data loader with batch_size={batch_size}")
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "sampler must be None if dataset is IterableDataset"
    else:
        # Each worker takes whole batches of the sampler's indices, so that their order is kept.
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    if seed is not None:
        kwargs["generator"] = torch.Generator().manual_seed(seed)
    kwargs = {"num_workers": num_workers, "worker_init_fn": worker_init_reset_seed, **kwargs}
    if num_workers == 0:
        kwargs.pop("prefetch_factor", None)  # DataLoader refuses it without workers
    if aspect_ratio_grouping:
        assert drop_last, "aspect_ratio_grouping always drops incomplete batches: set drop_last to True"
        loader = torchdata.DataLoader(dataset, collate_fn=operator.itemgetter(0), **kwargs)
        batches = AspectRatioGroupedDataset(loader, batch_size)
        return batches if collate_fn is None else MapDataset(batches, collate_fn)
    collate_fn = trivial_batch_collator if collate_fn is None else collate_fn
    return torchdata.DataLoader(dataset, batch_size=batch_size, drop_last=drop_last, collate_fn=collate_fn, **kwargs)


def _prepare(dataset, mapper: Callable | None, sampler, default_sampler: type) -> tuple:
    """Return the mapped dataset and, for a map-style one, its sampler."""
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if mapper is not None:
        dataset = MapDataset(dataset, mapper)
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = default_sampler(len(dataset))
    return dataset, sampler


def _train_sampler(cfg, dataset: list[dict]):
    name = cfg.DATALOADER.SAMPLER_TRAIN
    logger.info(f"Using training sampler {name}")
    if name == "TrainingSampler":
        return TrainingSampler(len(dataset))
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
        return RepeatFactorTrainingSampler(factors)
    raise ValueError(f"Unknown training sampler: {name}")


def _train_loader_from_config(cfg, mapper=None, *, dataset=None, sampler=None) -> dict:
    if dataset is None:
        dataset = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = _train_sampler(cfg, dataset)
    return {
        "dataset": dataset,
        "sampler": sampler,
        "mapper": DatasetMapper(cfg, True) if mapper is None else mapper,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler=None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
    **kwargs: Any,
):
    """Build a data loader for training, which is endless with a training sampler.

    Call it as ``build_detection_train_loader(cfg, mapper=..., dataset=..., sampler=...)`` or with explicit arguments.

    Args:
        dataset: list of dataset dicts, or a dataset.
        mapper: function from a dataset dict to the model's input. With a config it is a `DatasetMapper` by default.
        sampler: by default `TrainingSampler`. None for an iterable dataset.

    The other arguments are those of `build_batch_data_loader`.
    """
    dataset, sampler = _prepare(dataset, mapper, sampler, TrainingSampler)
    assert sampler is None or isinstance(sampler, torchdata.Sampler), f"sampler is a {type(sampler)}"
    kwargs = {"num_workers": num_workers, "collate_fn": collate_fn, **kwargs}
    return build_batch_data_loader(
        dataset, sampler, total_batch_size, aspect_ratio_grouping=aspect_ratio_grouping, **kwargs
    )


def _test_loader_from_config(cfg, dataset_name: str | Sequence[str], mapper=None) -> dict:
    dataset = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    return {
        "dataset": dataset,
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "sampler": InferenceSampler(len(dataset)),
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler=None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable | None = None,
) -> torchdata.DataLoader:
    """Build a data loader for inference: every image once, split over the processes.

    Call it as ``build_detection_test_loader(cfg, dataset_name, mapper=...)`` or with explicit arguments. These are
    those of `build_detection_train_loader`, and ``batch_size`` is the one of each process.
    """
    dataset, sampler = _prepare(dataset, mapper, sampler, InferenceSampler)
    collate_fn = trivial_batch_collator if collate_fn is None else collate_fn
    return torchdata.DataLoader(dataset, batch_size, sampler=sampler, num_workers=num_workers, collate_fn=collate_fn)
