"""Data loaders: batches, grouping by aspect ratio, workers, filtering, configs."""

import itertools
import pickle
import random
import uuid
from multiprocessing.reduction import ForkingPickler

import tellapart  # noqa: F401

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    MapDataset,
    MetadataCatalog,
    ToIterableDataset,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    print_instances_class_histogram,
)
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import InferenceSampler, TrainingSampler

SIZES = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3), (5, 4), (4, 5)]
RECORDS = [{"i": i, "width": w, "height": h} for i, (w, h) in enumerate(SIZES)]


def batches(loader, n):
    return [[d["i"] for d in batch] for batch in itertools.islice(iter(loader), n)]


def draw(record):
    """A mapper that draws from numpy's, Python's and torch's generators."""
    return {**record, "i": (record["i"], int(np.random.randint(1000)), random.randint(0, 1000), float(torch.rand(1)))}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_in_the_order_of_the_sampler(workers):
    loader = build_detection_train_loader(
        list(RECORDS),
        mapper=dict,
        sampler=TrainingSampler(7, seed=1),
        total_batch_size=2,
        aspect_ratio_grouping=False,
        num_workers=workers,
    )
    stream = list(itertools.islice(iter(TrainingSampler(7, seed=1)), 12))
    assert sum(batches(loader, 6), []) == stream


@pytest.mark.parametrize("workers", [0, 2])
def test_grouped_batches_have_one_orientation(workers):
    loader = build_detection_train_loader(
        list(RECORDS), mapper=dict, sampler=TrainingSampler(7, seed=1), total_batch_size=2, num_workers=workers
    )
    found = batches(loader, 6)
    wide = {1, 3, 5}
    assert all(len(b) == 2 and len({i in wide for i in b}) == 1 for b in found)
    # Recorded under the real Detectron2. Each worker groups the batches that it receives.
    assert found == [[0, 6], [1, 3], [2, 4] if workers == 0 else [4, 2], [0, 6], [5, 1 if workers == 0 else 3], [2, 4]]


def test_aspect_ratio_grouped_dataset():
    assert batches(AspectRatioGroupedDataset(RECORDS, 2), 9) == [[0, 2], [1, 3], [4, 6]]


@pytest.mark.parametrize("grouping", [False, True])
def test_workers_are_seeded(grouping):
    def run(seed):
        dataset = MapDataset(DatasetFromList(RECORDS), draw)
        sampler = TrainingSampler(7, seed=1)
        loader = build_batch_data_loader(dataset, sampler, 2, aspect_ratio_grouping=grouping, num_workers=2, seed=seed)
        return batches(loader, 3)

    first = run(5)
    assert first == run(5)
    assert first != run(6)
    drawn = [d[1:] for batch in first for d in batch]
    assert len(set(drawn)) == len(drawn)  # workers draw different numbers


def test_test_loader_returns_every_element_once():
    loader = build_detection_test_loader(list(RECORDS), mapper=dict)
    assert batches(loader, 99) == [[i] for i in range(7)] and len(loader) == 7
    assert batches(build_detection_test_loader(list(RECORDS), mapper=dict, batch_size=3), 9)[-1] == [6]


class Stream(torch.utils.data.IterableDataset):
    """The records in order, without a length."""

    def __iter__(self):
        return iter(RECORDS)


@pytest.mark.parametrize("mapper", [None, dict])
def test_iterable_dataset(mapper):
    options = {"mapper": mapper, "total_batch_size": 2}
    plain = build_detection_train_loader(Stream(), aspect_ratio_grouping=False, **options)
    assert batches(plain, 9) == [[0, 1], [2, 3], [4, 5]]
    assert batches(build_detection_train_loader(dataset=Stream(), **options), 9) == [[0, 2], [1, 3], [4, 6]]
    sampled = ToIterableDataset(DatasetFromList(RECORDS), TrainingSampler(7, shuffle=False, seed=1))
    assert batches(build_detection_train_loader(sampled, aspect_ratio_grouping=False, **options), 4)[3] == [6, 0]
    cfg = get_cfg()
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.ASPECT_RATIO_GROUPING = 0, 3, False
    assert batches(build_detection_train_loader(cfg, mapper=dict, dataset=Stream()), 9) == [[0, 1, 2], [3, 4, 5]]
    assert batches(build_detection_test_loader(Stream(), mapper=dict, batch_size=3), 9)[-1] == [6]
    with pytest.raises(AssertionError, match="sampler must be None"):
        build_detection_train_loader(Stream(), sampler=TrainingSampler(7), **options)


def test_prefetch_without_workers():
    sampler = TrainingSampler(7, shuffle=False, seed=1)
    loader = build_batch_data_loader(DatasetFromList(RECORDS), sampler, 2, prefetch_factor=4)
    assert batches(loader, 2) == [[0, 1], [2, 3]]


def test_lambda_can_be_sent_to_spawned_workers():
    """Pickled as for a process that is spawned."""
    factor = 3
    mapped = MapDataset(DatasetFromList([1, 2]), lambda x: x * factor)
    received = pickle.loads(ForkingPickler.dumps(mapped))
    assert [received[i] for i in range(2)] == [3, 6]
    stream = MapDataset(ToIterableDataset([1, 2], InferenceSampler(2)), lambda x: x * factor)
    assert list(pickle.loads(ForkingPickler.dumps(stream))) == [3, 6]


def test_batch_size_must_be_positive():
    with pytest.raises(AssertionError, match=r"Total batch size \(0\)"):
        build_batch_data_loader(DatasetFromList(RECORDS), TrainingSampler(7), 0)


def test_elements_mapped_to_none_are_skipped():
    def odd(x):
        return x if x % 2 else None

    stream = MapDataset(ToIterableDataset(list(range(6)), InferenceSampler(6)), odd)
    assert list(stream) == [1, 3, 5]
    mapped = MapDataset(list(range(6)), odd)
    assert [mapped[i] for i in (1, 3, 5)] == [1, 3, 5]
    assert all(mapped[i] % 2 for i in (0, 2, 4))  # another element is returned


@pytest.mark.parametrize("serialize", [False, True])
def test_dataset_from_list_returns_copies(serialize):
    dataset = DatasetFromList([{"a": [1]}, {"b": 2}], serialize=serialize)
    dataset[0]["a"].append(5)
    assert (len(dataset), dataset[0], dataset[-1]) == (2, {"a": [1]}, {"b": 2})
    with pytest.raises(IndexError):
        dataset[2]


@pytest.fixture
def registered():
    """A dataset: an image without annotations, one with a crowd only, and two with instances."""
    name = f"loader_{uuid.uuid4().hex}"
    per_image = [[], [(0, 1)], [(1, 0), (1, 1)], [(0, 0), (1, 0)]]
    records = [
        {**RECORDS[i], "annotations": [{"category_id": c, "iscrowd": crowd} for c, crowd in annotations]}
        for i, annotations in enumerate(per_image)
    ]
    DatasetCatalog.register(name, lambda: [dict(r) for r in records])
    MetadataCatalog.get(name).thing_classes = ["disc", name[-9:]]  # a table with the same text is logged once only
    return name


def test_dataset_dicts_are_filtered_and_checked(registered):
    assert [d["i"] for d in get_detection_dataset_dicts(registered)] == [2, 3]
    assert len(get_detection_dataset_dicts([registered, registered], filter_empty=False)) == 8
    other = registered + "_other"
    DatasetCatalog.register(other, lambda: [{"annotations": [{"category_id": 0}]}])
    MetadataCatalog.get(other).thing_classes = ["worm"]
    with pytest.raises(ValueError, match="thing_classes"):
        get_detection_dataset_dicts([registered, other])
    assert len(get_detection_dataset_dicts([registered, other], check_consistency=False)) == 3
    DatasetCatalog.register(other + "_empty", list)
    with pytest.raises(AssertionError, match="is empty"):
        get_detection_dataset_dicts(other + "_empty")


def test_histogram_refuses_unknown_categories():
    with pytest.raises(AssertionError, match="category_id=3.*2 classes"):
        print_instances_class_histogram([{"annotations": [{"category_id": 3}]}], ["a", "b"])


def test_logged_table_counts_instances_without_crowds(registered, caplog):
    with caplog.at_level("INFO"):
        get_detection_dataset_dicts(registered)
    table = [r.message for r in caplog.records if "Distribution of instances" in r.message][0]
    cells = [c.strip() for c in table.replace("\n", "").split("|")]
    assert (cells[cells.index("disc") + 1], cells[cells.index(registered[-9:]) + 1]) == ("1", "2")
    assert cells[cells.index("total") + 1] == "3"


@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
def test_loaders_from_a_config(registered, sampler):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (registered,), (registered,)
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = 0, 1
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD = sampler, 0.2
    found = batches(build_detection_train_loader(cfg, mapper=dict), 20)
    assert {i for (i,) in found} == {2, 3}
    chosen = build_detection_train_loader(cfg, mapper=dict, sampler=TrainingSampler(2, shuffle=False))
    assert batches(chosen, 3) == [[2], [3], [2]]
    assert batches(build_detection_test_loader(cfg, registered, mapper=dict), 9) == [[0], [1], [2], [3]]
    cfg.DATALOADER.SAMPLER_TRAIN = "Nonesuch"
    with pytest.raises(ValueError, match="Nonesuch"):
        build_detection_train_loader(cfg, mapper=dict)
