"""Every annotation that people bring is read right, repaired and counted, or dropped and counted."""

import copy
import math

import tellapart  # noqa: F401
from tellapart.data import normalize
from tellapart.data.normalize import Normalizer
from tellapart.data.segmentations import segmentation_area
from tellapart.errors import InputError

import numpy as np
import pytest
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 20, 30
SQUARE = [5, 5, 15, 5, 15, 15, 5, 15]
MASK = np.zeros((HEIGHT, WIDTH), np.uint8)
MASK[5:15, 5:15] = 1
ENCODED = coco_mask.encode(np.asfortranarray(MASK))
RLE = {"size": [HEIGHT, WIDTH], "counts": ENCODED["counts"].decode()}
RUNS = {"size": [HEIGHT, WIDTH], "counts": [105] + [10, 10] * 9 + [10, HEIGHT * WIDTH - 105 - 190]}
GOOD = {
    "id": 7, "image_id": 1, "category_id": 2, "iscrowd": 0, "bbox": [5, 5, 10, 10], "area": 100,
    "segmentation": [SQUARE],
}  # fmt: skip
BOX, AREA = [5, 5, 10, 10], 100


def normalizer(masks=True):
    return Normalizer("Data set mine", {1: (HEIGHT, WIDTH)}, {2: "worm", 3: "egg"}, masks)


def run(changes, masks=True):
    """Normalize GOOD with the changes; a value of ... removes the key. Returns the annotation and the summaries."""
    annotation = {key: value for key, value in {**copy.deepcopy(GOOD), **changes}.items() if value is not ...}
    reader = normalizer(masks)
    before = copy.deepcopy(annotation)
    (after,) = reader.normalize([annotation])
    assert str(annotation) == str(before), "the annotation was changed in place"
    if not reader.filled and not reader.bad:
        assert after is annotation
    return after, reader.filled.summary(), reader.bad.summary()


@pytest.mark.parametrize("segmentation", [[SQUARE], [SQUARE, [1, 1, 3, 1, 3, 3]], RLE, RUNS])
def test_clean_ones_are_the_same_objects(segmentation):
    box = [1, 1, 14, 14] if len(segmentation) == 2 and isinstance(segmentation, list) else BOX
    after, filled, bad = run({"segmentation": segmentation, "bbox": box})
    assert after["segmentation"] is not None and not filled and not bad


CROWDS = {
    "absent": (..., 0), "null": (None, 0), "text 0": ("0", 0), "text 1": ("1", 1), "false": (False, 0),
    "true": (True, 1), "0.0": (0.0, 0), "1.0": (1.0, 1), "text false": ("False", 0), "empty": ("", 0),
    "2": (2, None), "-1": (-1, None),
    "maybe": ("maybe", None), "list": ([0], None), "nan": (math.nan, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CROWDS)
def test_iscrowd(name):
    value, expected = CROWDS[name]
    after, filled, bad = run({"iscrowd": value})
    if expected is None:
        assert after is None and "neither 0 nor 1" in bad
    else:
        assert after["iscrowd"] == expected and type(after["iscrowd"]) is int and not bad


@pytest.mark.parametrize("value", [..., None, math.nan, math.inf, -3, 0, "100", [100], True])
def test_area_from_the_mask(value):
    after, filled, bad = run({"area": value})
    assert after["area"] == AREA and "areas that are missing" in filled and not bad


@pytest.mark.parametrize("segmentation", [[SQUARE], RLE, RUNS])
@pytest.mark.parametrize(
    "value",
    [
        ...,
        None,
        [],
        [0, 0, 0, 0],
        [5, 5, -10, 10],
        [5, 5, 10],
        ["5", 5, 10, 10],
        [math.nan, 5, 10, 10],
        [5, 5, 10**400, 1],
        "5 5 10 10",
        [500, 5, 10, 10],
        [5, 5, 15, 15],
        [50, 50, 10, 10],
    ],  # fmt: skip
)
def test_box_from_the_mask(value, segmentation):
    after, filled, bad = run({"bbox": value, "segmentation": segmentation})
    assert after["bbox"] == BOX and "(7)" in bad


def test_a_box_within_the_tolerance_is_kept():
    after, filled, bad = run({"bbox": [3, 4, 13, 11.5]})
    assert after["bbox"] == [3, 4, 13, 11.5] and not bad


def test_boxes_in_xyxy_are_recognized():
    reader = normalizer()
    (after,) = reader.normalize([{**GOOD, "bbox": [5, 5, 15, 15]}])
    assert after["bbox"] == BOX and reader.num_like_xyxy == 1


KEPT = {
    "short part first": ([[1, 1, 2, 2], SQUARE], [SQUARE], "fewer than 3 points"),
    "empty part": ([[], SQUARE], [SQUARE], "fewer than 3 points"),
    "odd part": ([[1, 2, 3, 4, 5, 6, 7], SQUARE], [SQUARE], "not lists of x, y numbers"),
    "null part": ([None, SQUARE], [SQUARE], "not lists of x, y numbers"),
    "line": ([[1, 1, 9, 9, 17, 17], SQUARE], [SQUARE], "zero area"),
    "nan": ([[math.nan, 1, 9, 9, 17, 1], SQUARE], [SQUARE], "not finite"),
    "huge integer": ([[10**400, 1, 9, 9, 17, 1], SQUARE], [SQUARE], "not finite"),
    "far away": ([[1e6, 1, 9, 9, 17, 1], SQUARE], [SQUARE], "more than 10 image sides"),
    "outside": ([[40, 40, 50, 40, 50, 50], SQUARE], [SQUARE], "outside the image"),
    "flat list": (SQUARE, [SQUARE], "one flat list"),
    "pairs": ([[5, 5], [15, 5], [15, 15], [5, 15]], [SQUARE], "[x, y] pairs"),
    "parts of pairs": ([[[5, 5], [15, 5], [15, 15], [5, 15]]], [SQUARE], "[x, y] pairs"),
    "points as objects": ([[{"y": y, "x": x} for x, y in zip(SQUARE[::2], SQUARE[1::2])]], [SQUARE], "[x, y] pairs"),
    "text": ([[str(value) for value in SQUARE]], [SQUARE], "written as text"),
    "closed ring": ([[*SQUARE, 5, 5]], [[*SQUARE, 5, 5]], ""),
    "bow tie": ([[5, 5, 15, 15, 15, 5, 5, 15]], [[5, 5, 15, 15, 15, 5, 5, 15]], ""),
    "bytes": ({**RLE, "counts": RLE["counts"].encode()}, {**RLE, "counts": RLE["counts"].encode()}, ""),
    "decimal runs": ({**RUNS, "counts": [float(c) for c in RUNS["counts"]]}, RUNS, ""),
    "decimal size": ({**RLE, "size": [20.0, 30.0]}, RLE, ""),
    "array": (MASK, {**ENCODED}, "masks given as arrays"),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_segmentation_is_read(name):
    segmentation, expected, kind = KEPT[name]
    after, filled, bad = run({"segmentation": segmentation})
    assert after["segmentation"] == expected and kind in filled + bad
    assert after["bbox"] == BOX and segmentation_area(after["segmentation"], HEIGHT, WIDTH) > 0


DROPPED = {
    "absent": (..., ""), "null": (None, ""), "empty": ([], ""), "empty polygon": ([[]], "fewer than 3 points"),
    "box": ([[5, 5, 10, 10]], "fewer than 3 points"), "text": ("polygon", "neither polygons nor RLE"),
    "number": (5, "neither polygons nor RLE"), "object": ({"points": []}, "neither polygons nor RLE"),
    "line": ([[1, 1, 9, 9, 17, 17]], "zero area"), "cut": ({**RLE, "counts": RLE["counts"][:5]}, "cut off"),
    "garbage": ({**RLE, "counts": "garbage!"}, "broken"), "empty counts": ({**RLE, "counts": ""}, "broken"),
    "no counts": ({"size": [20, 30]}, "neither polygons nor RLE"), "null counts": ({**RLE, "counts": None}, "add up"),
    "swapped size": ({**RLE, "size": [30, 20]}, "another size"),
    "no size": ({"counts": RLE["counts"]}, "another size"),
    "text size": ({**RLE, "size": "20x30"}, "another size"), "short runs": ({**RUNS, "counts": [105, 10]}, "add up"),
    "negative runs": ({**RUNS, "counts": [-5, 605]}, "add up"),
    "half runs": ({**RUNS, "counts": [0.5, 599.5]}, "add up"),
    "no pixel": ({**RUNS, "counts": [600]}, "without a pixel"), "no runs": ({**RUNS, "counts": []}, "add up"),
    "array of another size": (MASK.T, "another size"), "empty array": (MASK * 0, "without a pixel"),
}  # fmt: skip


@pytest.mark.parametrize("name", DROPPED)
def test_without_a_usable_mask(name):
    segmentation, kind = DROPPED[name]
    after, _, bad = run({"segmentation": segmentation})
    assert after is None and kind in bad and "annotations without a usable mask left out: 1 (7)" in bad
    after, _, bad = run({"segmentation": segmentation}, masks=False)
    assert after["bbox"] == BOX and not bad  # a model of boxes is trained on it, whatever the segmentation holds


def test_a_box_that_is_missing_comes_from_the_mask_for_models_of_boxes_too():
    after, _, bad = run({"bbox": None}, masks=False)
    assert after["bbox"] == BOX and "missing boxes replaced" in bad
    after, _, bad = run({"bbox": None, "segmentation": []}, masks=False)
    assert after is None and "missing boxes and no mask" in bad


@pytest.mark.parametrize("value", ["x", None, 5, [1], 1.5])
def test_unknown_images_are_left_out(value):
    after, _, bad = run({"image_id": value})
    assert after is None and "images that are not in the file" in bad


@pytest.mark.parametrize("value", ["2", 2.0, np.int64(2)])
def test_ids_in_other_types(value):
    after, _, bad = run({"category_id": value})
    assert after["category_id"] == 2 and type(after["category_id"]) is int and not bad


@pytest.mark.parametrize("value", [..., None, 0, "worm", True, [2]])
def test_unknown_categories_stop(value):
    with pytest.raises(
        InputError, match=r"mine: annotation 7 (has no 'category_id'|names category .*), expected .*2, 3"
    ):
        run({"category_id": value})


@pytest.mark.parametrize("entry", [None, 5, "text", []])
def test_entries_that_are_no_objects(entry):
    reader = normalizer()
    assert reader.normalize([entry]) == [None]
    assert "not objects" in reader.bad.summary() and "number 1" in reader.bad.summary()


def test_ignore_is_a_crowd():
    after, filled, _ = run({"ignore": 1})
    assert after["iscrowd"] == 1 and "'ignore'" in filled


def test_one_by_one_and_in_blocks_are_equal(monkeypatch):
    """Clean annotations are found in blocks; what the slow way would change must never be taken for clean."""
    entries = [{**GOOD, "segmentation": value[0]} for value in KEPT.values()]
    entries += [{**GOOD, "segmentation": value[0]} for value in DROPPED.values() if value[0] is not ...]
    entries += [{**GOOD, "iscrowd": value} for value, _ in CROWDS.values()]
    entries += [{**GOOD, "bbox": value} for value in ([0, 0, 0, 0], [5, 5, 15, 15], [4, 5, 11, 10], [5, 5, True, 10])]
    entries += [GOOD, {**GOOD, "segmentation": RLE}] * 3
    one_by_one = normalizer()
    expected = [one_by_one.normalize_one(entry, number) for number, entry in enumerate(entries, 1)]
    for size in (1, 3, 1000):
        monkeypatch.setattr(normalize, "_BLOCK", size)
        in_blocks = normalizer()
        assert str(in_blocks.normalize(entries)) == str(expected)
        assert in_blocks.bad.summary() == one_by_one.bad.summary()
        assert in_blocks.filled.summary() == one_by_one.filled.summary()
