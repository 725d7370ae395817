"""Copy-paste: pasted pixels, masks, boxes and classes; what is below is cut or removed."""

from __future__ import annotations

import random
from pathlib import Path

import tellapart
from tellapart import InputError
from tellapart.data.copy_paste import CopyPaste
from tellapart.data.loader import build_resumable_train_loader

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

ROOT = Path(__file__).resolve().parents[2]


def sample(size: tuple[int, int], boxes: list[tuple[int, int, int, int]], first_class: int = 0, level: int = 0) -> dict:
    """Return a sample whose instance i is a rectangle with the image value ``level + i + 1``."""
    image = torch.full((3, *size), level, dtype=torch.uint8)
    masks = torch.zeros((len(boxes), *size), dtype=torch.bool)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        masks[i, y0:y1, x0:x1] = True
        image[:, y0:y1, x0:x1] = level + i + 1
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) + first_class
    instances.gt_masks = BitMasks(masks)
    return {"image": image, "instances": instances, "file_name": "a.png"}


@pytest.mark.parametrize("size, source_size", [((40, 50), (40, 50)), ((40, 50), (25, 70)), ((33, 47), (70, 60))])
def test_pixels_masks_boxes_and_classes_agree(size, source_size):
    below = sample(size, [(2, 3, 20, 20), (25, 3, 40, 30)])
    other = sample(source_size, [(1, 1, 9, 9), (8, 12, 30, 22), (20, 3, 40, 20), (3, 3, 6, 25)], 10, 100)
    num_pasted = 0
    for seed in range(40):
        np.random.seed(seed)
        before = below["image"].clone()
        result = CopyPaste(1.0)(below, 0, 1, lambda index: other)
        assert torch.equal(below["image"], before), "the sample given must not change"
        image, found = result["image"], result["instances"]
        masks = found.gt_masks.tensor
        assert image.shape == (3, *size) and masks.shape[1:] == size and masks.flatten(1).any(1).all()
        is_pasted = found.gt_classes >= 10
        num_pasted += int(is_pasted.sum())
        # Each value of the image belongs to one object, so that the image says what the masks have to be.
        for label, mask, is_new in zip(found.gt_classes.tolist(), masks, is_pasted.tolist()):
            value = 100 + label - 10 + 1 if is_new else label + 1
            values = image[0][mask].unique().tolist()
            assert values == [value] or (is_new and value in values), "a mask covers pixels of its own"
            if not is_new:
                assert torch.equal(image[0] == value, mask), "what is below has the pixels that are left"
        union = masks[is_pasted].any(0) if is_pasted.any() else torch.zeros(size, dtype=torch.bool)
        assert torch.equal(image[0] >= 101, union), "only instances are pasted, not their background"
        assert torch.equal(found.gt_boxes.tensor, found.gt_masks.get_bounding_boxes().tensor)
        assert result["file_name"] == "a.png" and found.gt_boxes.tensor.dtype == torch.float32
    assert num_pasted > 30


def test_covered_instances_are_removed():
    below, other = sample((20, 20), [(9, 9, 11, 11), (0, 0, 20, 1)]), sample((20, 20), [(3, 3, 17, 17)], 7, 100)
    kept = set()
    for seed in range(10):
        np.random.seed(seed)
        kept.add(tuple(CopyPaste(1.0)(below, 0, 1, lambda index: other)["instances"].gt_classes.tolist()))
    assert kept == {(0, 1), (1, 7)}, "either nothing was chosen, or the small one is covered"


def test_boxes_of_uncut_instances_are_the_annotated_ones():
    below, other = sample((20, 20), [(0, 0, 4, 4)]), sample((20, 20), [(10, 10, 15, 15)], 5)
    below["instances"].gt_boxes = Boxes(torch.tensor([[0.25, 0.5, 3.5, 3.75]]))
    np.random.seed(1)
    found = CopyPaste(1.0)(below, 0, 1, lambda index: other)["instances"]
    assert len(found) == 2 and found.gt_boxes.tensor[0].tolist() == [0.25, 0.5, 3.5, 3.75]


def test_when_nothing_is_pasted():
    below, empty = sample((20, 20), [(0, 0, 4, 4)]), sample((20, 20), [])
    for other in (empty, None, {"unreadable": "cut off", "file_name": "b.png"}):
        assert CopyPaste(1.0)(below, 0, 1, lambda index, other=other: other) is below
    assert CopyPaste(0.0)(below, 0, 1, lambda index: pytest.fail("not needed")) is below
    np.random.seed(1)
    full = CopyPaste(1.0)(empty, 0, 1, lambda index: sample((20, 20), [(8, 8, 12, 12)]))
    assert len(full["instances"]) == 1 and full["instances"].gt_masks.tensor.sum() == 16


def test_polygons_are_refused():
    below = sample((20, 20), [(0, 0, 4, 4)])
    below["instances"].gt_masks = PolygonMasks([[np.array([0.0, 0, 4, 0, 4, 4])]])
    with pytest.raises(InputError, match="set INPUT.MASK_FORMAT to bitmask"):
        CopyPaste(1.0)(below, 0, 1, lambda index: below)


def test_loader_pastes_and_stays_reproducible():
    """The number of instances rises, the samples depend on the seed alone, and other random numbers are not used."""

    def batches(probability: float) -> list[list[dict]]:
        cfg = get_cfg()
        tellapart.add_config(cfg)
        cfg.merge_from_file(str(ROOT / "configs" / "quick" / "fcis" / "fcis_R_18_shapes.yaml"))
        cfg.INPUT.AUGMENTATION.COPY_PASTE, cfg.DATALOADER.NUM_WORKERS = probability, 0
        random.seed(1)
        np.random.seed(1)
        loader = iter(build_resumable_train_loader(cfg))
        result = [next(loader) for _ in range(3)]
        assert np.random.random() == np.random.RandomState(1).random_sample()
        return result

    plain, first, second = batches(0.0), batches(1.0), batches(1.0)
    numbers = [sum(len(one["instances"]) for batch in each for one in batch) for each in (plain, first)]
    assert numbers[1] > 1.2 * numbers[0]
    for a, b in zip(first, second):
        assert all(torch.equal(x["image"], y["image"]) for x, y in zip(a, b))
        assert [one["file_name"] for one in a] == [one["file_name"] for one in b]
