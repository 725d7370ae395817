"""The resumable training loader: the n-th sample depends only on the seed and n; unreadable images are named."""

import json
import multiprocessing
import random
from itertools import islice

import tellapart
from tellapart.data import register_coco_folder
from tellapart.data.coco_folder import coco_annotation
from tellapart.data.loader import ResumableBatchSampler, build_guarded_test_loader, build_resumable_train_loader
from tellapart.errors import InputError

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from PIL import Image

NAME = "tellapart_test_loader"
COUNT = 11


@pytest.fixture
def folder(tmp_path):
    """11 images, wide and tall, each with one object; category 2 is rare."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for i in range(COUNT):
        height, width = (20, 28) if i % 3 else (28, 20)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"images/{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": height, "width": width})
        mask = np.zeros((height, width), bool)
        mask[4:15, 5 : 9 + i] = True
        annotations.append(coco_annotation(i + 1, i + 1, 2 if i == 4 else 1, mask))
    categories = [{"id": 1, "name": "often"}, {"id": 2, "name": "rare"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "set.json").write_text(json.dumps(content))
    register_coco_folder(NAME, str(tmp_path / "set.json"), str(tmp_path / "images"))
    yield tmp_path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def config(**dataloader):
    cfg = get_cfg()
    tellapart.add_config(cfg)
    cfg.SEED = 3
    cfg.DATASETS.TRAIN = (NAME,)
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN = (16, 20, 24)
    cfg.INPUT.CROP.ENABLED = True
    cfg.DATALOADER.NUM_WORKERS = 0
    for key, value in dataloader.items():
        cfg.DATALOADER[key] = value
    return cfg


def take(loader, count):
    """Return the first batches as comparable values: file, augmented pixels, masks."""

    def values(sample):
        masks = sample["instances"].gt_masks.tensor
        return sample["file_name"], sample["image"].numpy().tobytes(), masks.numpy().tobytes()

    return [[values(sample) for sample in batch] for batch in islice(loader, count)]


def names(batches):
    return [[sample[0].rsplit("/", 1)[-1] for sample in batch] for batch in batches]


@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
def test_resumed_stream_is_the_tail_of_the_whole_one(folder, sampler):
    options = {"SAMPLER_TRAIN": sampler, "REPEAT_THRESHOLD": 0.5}
    whole = take(build_resumable_train_loader(config(**options)), 16)
    assert len({sample for batch in whole for sample in batch}) > COUNT  # images come back augmented in another way
    for workers, start in ((0, 5), (2, 0), (2, 7)):
        random.seed(start)
        np.random.seed(start)
        torch.manual_seed(start)
        loader = build_resumable_train_loader(config(NUM_WORKERS=workers, **options))
        loader.batch_sampler.start_batch = start
        assert take(loader, 16 - start) == whole[start:]


def test_other_seed_other_stream(folder):
    cfg = config()
    whole = take(build_resumable_train_loader(cfg), 6)
    cfg.SEED = 4
    assert take(build_resumable_train_loader(cfg), 6) != whole


def test_batches_hold_images_of_one_orientation(folder):
    def shapes(loader):
        return [{s["width"] > s["height"] for s in batch} for batch in islice(loader, 15)]

    grouped = shapes(build_resumable_train_loader(config()))
    assert all(len(kinds) == 1 for kinds in grouped) and {True, False} == set.union(*grouped)
    assert any(len(kinds) == 2 for kinds in shapes(build_resumable_train_loader(config(ASPECT_RATIO_GROUPING=False))))


def test_epochs_are_those_of_detectron2s_sampler(folder):
    loader = build_resumable_train_loader(config(ASPECT_RATIO_GROUPING=False))
    got = [int(name.split(".")[0]) for batch in names(take(loader, 11)) for name in batch]
    assert got == list(islice(TrainingSampler(COUNT, seed=3), 22))
    assert sorted(got[:COUNT]) == list(range(COUNT))


def test_rare_category_comes_more_often(folder):
    loader = build_resumable_train_loader(
        config(SAMPLER_TRAIN="RepeatFactorTrainingSampler", REPEAT_THRESHOLD=0.8, ASPECT_RATIO_GROUPING=False)
    )
    got = [name for batch in names(take(loader, 60)) for name in batch]
    assert got.count("4.png") > 1.5 * max(got.count(f"{i}.png") for i in range(COUNT) if i != 4)
    assert isinstance(loader.batch_sampler.indices, RepeatFactorTrainingSampler)


def test_processes_share_one_stream(monkeypatch):
    """The positions of all ranks number the stream without gaps; batch k of a rank is the same after resuming."""
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    positions = []
    for rank in range(3):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        indices = list(range(rank, 60, 3))
        sampler = ResumableBatchSampler(indices, 2)
        batches = list(sampler)
        assert [pair for batch in batches for pair in batch] == [(i, i) for i in indices]
        sampler.start_batch = 4
        assert list(sampler) == batches[4:]
        positions += [position for batch in batches for position, _ in batch]
    assert sorted(positions) == list(range(60))


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_trainers_randomness_alone(folder, workers):
    def draw(batches):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        if batches:
            take(build_resumable_train_loader(config(NUM_WORKERS=workers)), batches)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw(0) == draw(3)


def cut(path):
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize("workers", [0, 2])
def test_cut_image_is_named_in_one_message(folder, workers):
    cut(folder / "images" / "7.png")
    with pytest.raises(InputError, match=r"^Image \S*/images/7\.png cannot be read: .*SKIP_BAD_IMAGES") as error:
        take(build_resumable_train_loader(config(NUM_WORKERS=workers)), 12)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
    assert not multiprocessing.active_children()  # though the error still holds on to the frames that it came through


def test_image_of_another_size_than_its_json_says_is_named(folder):
    Image.new("RGB", (9, 9)).save(folder / "images" / "7.png")
    with pytest.raises(InputError, match=r"Image \S*/images/7\.png cannot be read: .*9"):
        take(build_resumable_train_loader(config()), 12)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_image_is_replaced_by_the_next_and_warned_of_once(folder, workers, caplog):
    def run(start):
        loader = build_resumable_train_loader(config(SKIP_BAD_IMAGES=True, NUM_WORKERS=workers))
        loader.batch_sampler.start_batch = start
        return take(loader, 20 - start)

    before = names(run(0))
    for bad in (6, 7):
        cut(folder / "images" / f"{bad}.png")
    whole = run(0)
    replaced = [[{"6.png": "8.png", "7.png": "8.png"}.get(name, name) for name in batch] for batch in before]
    assert names(whole) == replaced != before
    for name in ("6.png", "7.png"):
        assert sum(f"images/{name}, which cannot be read" in record.message for record in caplog.records) == 1
    assert "2 skipped so far" in caplog.text
    assert run(9) == whole[9:]
    assert "skipped_unreadable" not in next(iter(build_resumable_train_loader(config(SKIP_BAD_IMAGES=True))))[0]


def test_faulty_mapper_is_not_taken_for_a_bad_image(folder):
    def mapper(dataset_dict):
        raise RuntimeError("my own augmentation fails")

    with pytest.raises(RuntimeError, match="my own augmentation fails"):
        next(iter(build_resumable_train_loader(config(SKIP_BAD_IMAGES=True), mapper)))


def test_mapper_may_refuse_images(folder):
    def mapper(dataset_dict):
        return None if dataset_dict["image_id"] != 3 else dataset_dict

    assert [s["image_id"] for s in next(iter(build_resumable_train_loader(config(), mapper)))] == [3, 3]
    with pytest.raises(InputError, match="None of the 11 training images"):
        next(iter(build_resumable_train_loader(config(), lambda dataset_dict: None)))


def test_wrong_settings_are_named(folder, monkeypatch):
    with pytest.raises(InputError, match="SAMPLER_TRAIN is Nonsense, expected TrainingSampler or"):
        build_resumable_train_loader(config(SAMPLER_TRAIN="Nonsense"))
    cfg = config()
    cfg.DATASETS.TRAIN = (NAME + "s",)
    with pytest.raises(InputError, match=f"did you mean {NAME}"):
        build_resumable_train_loader(cfg)
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    with pytest.raises(InputError, match="IMS_PER_BATCH is 2, expected a multiple of the 3 processes"):
        build_resumable_train_loader(config())


def test_empty_set_is_named(folder):
    content = json.loads((folder / "set.json").read_text())
    content["annotations"] = []
    (folder / "set.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=NAME):
        build_resumable_train_loader(config())


@pytest.mark.parametrize("workers", [0, 2])
def test_test_loader_names_or_leaves_out_the_image(folder, workers, caplog):
    cut(folder / "images" / "2.png")
    loader = build_guarded_test_loader(config(NUM_WORKERS=workers), NAME)
    with pytest.raises(InputError, match=r"^Image \S*/images/2\.png cannot be read"):
        list(loader)
    loader = build_guarded_test_loader(config(NUM_WORKERS=workers, SKIP_BAD_IMAGES=True), NAME)
    assert [batch[0]["image_id"] for batch in loader] == [i for i in range(1, COUNT + 1) if i != 3]
    assert len(loader) == COUNT and "images/2.png" in caplog.text


def test_test_loader_adds_the_number_of_instances_for_kmeans(folder):
    """Crowds are not counted, and the registered dicts are not changed. Other clusterings get no ground truth."""
    DatasetCatalog.remove(NAME)
    one, crowd = ({"bbox": [1, 1, 5, 5], "bbox_mode": 1, "category_id": 0, "iscrowd": c} for c in (0, 1))
    records = [
        {"file_name": str(folder / f"images/{i}.png"), "image_id": i, "height": 20, "width": 28, "annotations": given}
        for i, given in ((1, [one, crowd, one]), (2, []))
    ]
    DatasetCatalog.register(NAME, lambda: records)
    cfg = config()
    cfg.MODEL.MASK_ON = False
    assert all("gt_num_instances" not in batch[0] for batch in build_guarded_test_loader(cfg, NAME))
    cfg.MODEL.COLORING.CLUSTERING = "kmeans"
    loaded = [batch[0] for batch in build_guarded_test_loader(cfg, NAME)]
    assert [sample["gt_num_instances"] for sample in loaded] == [2, 0]
    assert all("gt_num_instances" not in record for record in records)
