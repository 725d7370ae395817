"""Adjusted Rand index of colourings: figures worked out by hand, what is counted, two processes as one."""

from __future__ import annotations

import json
import math
import os
import uuid

from tellapart import InputError
from tellapart.data.coco_folder import coco_annotation
from tellapart.evaluation import ColoringEvaluator
from tellapart.evaluation.coloring import adjusted_rand_index

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluators
from detectron2.structures import Instances

H, W = 6, 8


def masks_of(labels: str) -> np.ndarray:
    """Masks of one row of pixels, bool (N, 1, W), one for each letter there is, from a on; "." is in none, "A" in a and
    b."""
    used = sorted(set(labels.replace("A", "ab")) - {"."})
    return np.array([[[x == k or (x == "A" and k in "ab") for x in labels]] for k in used])


@pytest.mark.parametrize(
    ("found", "true", "index", "covered"),
    [
        ("aabbcc", "bbccaa", 1.0, 1.0),  # whatever the colours' order
        ("aaaaaa", "aabbcc", 0.0, 1.0),  # one colour for all
        ("ababab", "aaabbb", -1 / 9, 1.0),  # 2 of 15 pairs together in both, 6 in each: (2 - 2.4) / (6 - 2.4)
        ("aaabbb", "aabbcc", 8 / 33, 1.0),  # 2 in both, 6 and 3: (2 - 1.2) / (4.5 - 1.2)
        ("aab..b", "aabbcc", 4 / 7, 4 / 6),  # of 6 pairs 1 in both, 2 and 1: (1 - 1 / 3) / (1.5 - 1 / 3)
        ("......", "aabbcc", 0.0, 0.0),
        ("aabbab", "aabb..", 1.0, 1.0),  # beyond the true instances nothing counts
    ],
)
def test_by_hand(found, true, index, covered):
    """(Pairs of pixels that are together in both - expected by chance) / (mean of those in each - expected)."""
    masks = masks_of(found) if found.strip(".") else np.zeros((0, 1, len(true)), bool)
    assert adjusted_rand_index(masks, masks_of(true)) == pytest.approx((index, covered))


def test_overlaps():
    """True pixels of two instances do not count; of predictions that overlap the first one does."""
    assert adjusted_rand_index(masks_of("aabbbb"), masks_of("aaAAbb")) == (1.0, 1.0)
    assert adjusted_rand_index(masks_of("aab.bb"), masks_of("aaA.bb")) == (1.0, 1.0)
    assert adjusted_rand_index(masks_of("aAabbb"), masks_of("aaabbb")) == (1.0, 1.0)
    assert adjusted_rand_index(masks_of("aAabbb")[::-1], masks_of("aaabbb"))[0] < 0.9
    assert adjusted_rand_index(masks_of("aaabbb"), masks_of("AAAAAA")) == (0.0, 0.0)


def truth_of(image: int) -> list[np.ndarray]:
    """Two rectangles, a third one that grows from image to image."""
    masks = np.zeros((3, H, W), bool)
    masks[0, :3, :4], masks[1, :3, 4:], masks[2, 3 : 4 + image % 3, :5] = True, True, True
    return list(masks)


def found_in(image: int) -> np.ndarray:
    """Anything: each pixel one of four instances or none."""
    return np.random.default_rng(image).integers(0, 5, (H, W)) == np.arange(4)[:, None, None]


def record(image: int, masks: list[np.ndarray], crowd: tuple[int, ...] = ()) -> dict:
    annotations = [{**coco_annotation(k, image, 1, m), "iscrowd": int(k in crowd)} for k, m in enumerate(masks)]
    return {"image_id": image, "height": H, "width": W, "annotations": annotations}


@pytest.fixture
def register():
    """A function that registers dataset dicts under a new name, which it returns."""
    names = []

    def enter(records: list[dict]) -> str:
        names.append(f"coloring_{uuid.uuid4().hex}")
        DatasetCatalog.register(names[-1], lambda: records)
        return names[-1]

    yield enter
    for name in names:
        DatasetCatalog.remove(name)


def process(evaluator: ColoringEvaluator, image: int, masks: np.ndarray) -> None:
    masks = torch.from_numpy(np.ascontiguousarray(masks))
    evaluator.process([{"image_id": image}], [{"instances": Instances(tuple(masks.shape[1:]), pred_masks=masks)}])


def test_means_over_images(register):
    """In percent; an image without predictions counts as 0, one that was not predicted on does not count."""
    evaluator = ColoringEvaluator(register([record(i, truth_of(i)) for i in range(5)]))
    found = {i: found_in(i) for i in range(3)}
    found[3] = np.zeros((0, H, W), bool)
    for image, masks in found.items():
        process(evaluator, image, masks)
    expected = [adjusted_rand_index(masks, np.array(truth_of(image))) for image, masks in found.items()]
    figures = evaluator.evaluate()["coloring"]
    assert list(figures) == ["ARI", "covered", "images"] and figures["images"] == 4
    assert figures["ARI"] == pytest.approx(25 * sum(index for index, _ in expected))
    assert figures["covered"] == pytest.approx(25 * sum(share for _, share in expected))
    assert expected[3] == (0.0, 0.0) and 40 < figures["covered"] < 75
    evaluator.reset()
    figures = evaluator.evaluate()["coloring"]
    assert figures["images"] == 0 and math.isnan(figures["ARI"])


def test_crowds_and_images_of_one_instance(register):
    """A crowd is no instance, and an image of fewer than two says nothing."""
    masks = truth_of(0)
    crowded = register([record(1, masks, crowd=(2,)), record(2, masks[:1]), record(3, []), record(4, masks, (0, 1))])
    evaluator = ColoringEvaluator(crowded)
    for image in (2, 3, 4):
        process(evaluator, image, found_in(image))
    assert evaluator.evaluate()["coloring"]["images"] == 0
    mixed = np.array([masks[0], masks[1] | masks[2]])  # what it says about the crowd does not matter
    process(evaluator, 1, mixed)
    assert evaluator.evaluate()["coloring"] == {"ARI": 100, "covered": 100, "images": 1}
    process(evaluator, 1, mixed[:1])  # the later prediction of an image replaces the earlier
    assert evaluator.evaluate()["coloring"] == {"ARI": 100, "covered": 50, "images": 1}


def test_bad_input_is_named(register):
    evaluator = ColoringEvaluator(register([record(7, truth_of(0))]))
    with pytest.raises(InputError, match=r"image 7: masks \(8, 6\), wanted \(6, 8\)"):
        process(evaluator, 7, np.zeros((2, W, H), bool))
    with pytest.raises(InputError, match="image 8 is not in the data set coloring_"):
        process(evaluator, 8, np.zeros((2, H, W), bool))


def _one_of_two(rank: int, folder: str) -> None:
    """What process ``rank`` of two does. The second gets one image again, as a padded sampler would."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(os.path.join(folder, "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    DatasetCatalog.register("coloring_two_processes", lambda: [record(i, truth_of(i)) for i in range(5)])
    evaluator = DatasetEvaluators([ColoringEvaluator("coloring_two_processes")])
    for image in ((0, 1, 2), (3, 4, 0))[rank]:
        process(evaluator, image, found_in(image))
    with open(os.path.join(folder, f"figures_{rank}.json"), "w") as file:
        json.dump(evaluator.evaluate(), file)
    torch.distributed.destroy_process_group()


def test_two_processes_evaluate_as_one(register, tmp_path):
    # fork: seconds less than spawn, which imports everything anew
    torch.multiprocessing.start_processes(_one_of_two, (str(tmp_path),), nprocs=2, start_method="fork")
    together, nothing = (json.loads((tmp_path / f"figures_{rank}.json").read_text()) for rank in range(2))
    single = ColoringEvaluator(register([record(i, truth_of(i)) for i in range(5)]))
    for image in range(5):
        process(single, image, found_in(image))
    assert nothing == {} and together["coloring"]["images"] == 5
    assert together["coloring"] == pytest.approx(single.evaluate()["coloring"])
