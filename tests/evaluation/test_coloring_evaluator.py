"""Adjusted Rand index of colorings: values calculated by hand, which pixels and images count, two processes."""

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
    """Return masks of one row of pixels, bool (N, 1, W), a mask per letter in alphabetical order.

    A pixel "." is in no mask, a pixel "A" is in the masks of a and b.
    """
    letters = sorted(set(labels.replace("A", "ab")) - {"."})
    return np.array([[[x == letter or (x == "A" and letter in "ab") for x in labels]] for letter in letters])


@pytest.mark.parametrize(
    ("predicted", "true", "index", "covered"),
    [
        ("aabbcc", "bbccaa", 1.0, 1.0),  # the order of the colors does not count
        ("aaaaaa", "aabbcc", 0.0, 1.0),  # one color for all pixels
        ("ababab", "aaabbb", -1 / 9, 1.0),  # of 15 pairs 2 are together in both, 6 in each: (2 - 2.4) / (6 - 2.4)
        ("aaabbb", "aabbcc", 8 / 33, 1.0),  # 2 pairs in both, 6 and 3: (2 - 1.2) / (4.5 - 1.2)
        ("aab..b", "aabbcc", 4 / 7, 4 / 6),  # of 6 pairs 1 in both, 2 and 1: (1 - 1 / 3) / (1.5 - 1 / 3)
        ("......", "aabbcc", 0.0, 0.0),
        ("aabbab", "aabb..", 1.0, 1.0),  # pixels outside the true instances do not count
    ],
)
def test_values_calculated_by_hand(predicted, true, index, covered):
    """ARI = (pairs of pixels together in both - expected by chance) / (mean of the pairs in each - expected)."""
    masks = masks_of(predicted) if predicted.strip(".") else np.zeros((0, 1, len(true)), bool)
    assert adjusted_rand_index(masks, masks_of(true)) == pytest.approx((index, covered))


def test_overlaps():
    """Pixels of two true instances do not count. Where predictions overlap, the first one counts."""
    assert adjusted_rand_index(masks_of("aabbbb"), masks_of("aaAAbb")) == (1.0, 1.0)
    assert adjusted_rand_index(masks_of("aab.bb"), masks_of("aaA.bb")) == (1.0, 1.0)
    assert adjusted_rand_index(masks_of("aAabbb"), masks_of("aaabbb")) == (1.0, 1.0)
    assert adjusted_rand_index(masks_of("aAabbb")[::-1], masks_of("aaabbb"))[0] < 0.9
    assert adjusted_rand_index(masks_of("aaabbb"), masks_of("AAAAAA")) == (0.0, 0.0)


def gt_masks_of(image: int) -> list[np.ndarray]:
    """Return two rectangles and a third one whose size depends on the image."""
    masks = np.zeros((3, H, W), bool)
    masks[0, :3, :4], masks[1, :3, 4:], masks[2, 3 : 4 + image % 3, :5] = True, True, True
    return list(masks)


def random_masks(image: int) -> np.ndarray:
    """Return four random disjoint masks."""
    return np.random.default_rng(image).integers(0, 5, (H, W)) == np.arange(4)[:, None, None]


def record(image: int, masks: list[np.ndarray], crowd: tuple[int, ...] = ()) -> dict:
    annotations = [{**coco_annotation(k, image, 1, m), "iscrowd": int(k in crowd)} for k, m in enumerate(masks)]
    return {"image_id": image, "height": H, "width": W, "annotations": annotations}


@pytest.fixture
def register():
    """Return a function that registers dataset dicts under a new name and returns the name."""
    names = []

    def register_records(records: list[dict]) -> str:
        names.append(f"coloring_{uuid.uuid4().hex}")
        DatasetCatalog.register(names[-1], lambda: records)
        return names[-1]

    yield register_records
    for name in names:
        DatasetCatalog.remove(name)


def process(evaluator: ColoringEvaluator, image: int, masks: np.ndarray) -> None:
    masks = torch.from_numpy(np.ascontiguousarray(masks))
    evaluator.process([{"image_id": image}], [{"instances": Instances(tuple(masks.shape[1:]), pred_masks=masks)}])


def test_means_over_images(register):
    """The figures are in percent. An image without predictions counts as 0, one that was not processed is ignored."""
    evaluator = ColoringEvaluator(register([record(i, gt_masks_of(i)) for i in range(5)]))
    pred_masks = {i: random_masks(i) for i in range(3)}
    pred_masks[3] = np.zeros((0, H, W), bool)
    for image, masks in pred_masks.items():
        process(evaluator, image, masks)
    expected = [adjusted_rand_index(masks, np.array(gt_masks_of(image))) for image, masks in pred_masks.items()]
    figures = evaluator.evaluate()["coloring"]
    assert list(figures) == ["ARI", "covered", "images"] and figures["images"] == 4
    assert figures["ARI"] == pytest.approx(25 * sum(index for index, _ in expected))
    assert figures["covered"] == pytest.approx(25 * sum(covered for _, covered in expected))
    assert expected[3] == (0.0, 0.0) and 40 < figures["covered"] < 75
    evaluator.reset()
    figures = evaluator.evaluate()["coloring"]
    assert figures["images"] == 0 and math.isnan(figures["ARI"])


def test_crowds_and_images_of_one_instance(register):
    """Crowds do not count as instances. Images with fewer than two instances are left out."""
    masks = gt_masks_of(0)
    crowded = register([record(1, masks, crowd=(2,)), record(2, masks[:1]), record(3, []), record(4, masks, (0, 1))])
    evaluator = ColoringEvaluator(crowded)
    for image in (2, 3, 4):
        process(evaluator, image, random_masks(image))
    assert evaluator.evaluate()["coloring"]["images"] == 0
    merged = np.array([masks[0], masks[1] | masks[2]])  # the pixels of the crowd do not count
    process(evaluator, 1, merged)
    assert evaluator.evaluate()["coloring"] == {"ARI": 100, "covered": 100, "images": 1}
    process(evaluator, 1, merged[:1])  # the later prediction of an image replaces the earlier
    assert evaluator.evaluate()["coloring"] == {"ARI": 100, "covered": 50, "images": 1}


def test_errors_for_bad_input(register):
    evaluator = ColoringEvaluator(register([record(7, gt_masks_of(0))]))
    with pytest.raises(InputError, match=r"image 7: masks have size \(8, 6\), expected the image\'s size \(6, 8\)"):
        process(evaluator, 7, np.zeros((2, W, H), bool))
    with pytest.raises(InputError, match="image 8 is not in the data set coloring_"):
        process(evaluator, 8, np.zeros((2, H, W), bool))


def _run_process(rank: int, folder: str) -> None:
    """Run process ``rank`` of two. The second one processes one image of the first again, as with a padded sampler."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(os.path.join(folder, "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    DatasetCatalog.register("coloring_two_processes", lambda: [record(i, gt_masks_of(i)) for i in range(5)])
    evaluator = DatasetEvaluators([ColoringEvaluator("coloring_two_processes")])
    for image in ((0, 1, 2), (3, 4, 0))[rank]:
        process(evaluator, image, random_masks(image))
    with open(os.path.join(folder, f"figures_{rank}.json"), "w") as file:
        json.dump(evaluator.evaluate(), file)
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_figures_of_one(register, tmp_path):
    # fork is seconds faster than spawn, which imports everything again
    torch.multiprocessing.start_processes(_run_process, (str(tmp_path),), nprocs=2, start_method="fork")
    main, other = (json.loads((tmp_path / f"figures_{rank}.json").read_text()) for rank in range(2))
    single = ColoringEvaluator(register([record(i, gt_masks_of(i)) for i in range(5)]))
    for image in range(5):
        process(single, image, random_masks(image))
    assert other == {} and main["coloring"]["images"] == 5
    assert main["coloring"] == pytest.approx(single.evaluate()["coloring"])
