"""Any COCO file built of valid and broken parts is read, trained on and evaluated, or refused by an InputError.

A data set that is accepted becomes dicts that Detectron2's mapper turns into instances, and annotations that
pycocotools reads, decodes and evaluates.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from pathlib import Path
from typing import Any

from tellapart.data.coco_folder import register_coco_folder
from tellapart.data.reader import read_dataset
from tellapart.errors import InputError

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
_TOOL = Path(__file__).resolve().parents[2] / "tools" / "fuzz_targets.py"
_SPEC = importlib.util.spec_from_file_location("fuzz_targets", _TOOL)
fuzz_targets = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fuzz_targets)

HEIGHT, WIDTH = 16, 24
NAME = "reader_properties"
SECONDS_PER_EXAMPLE = 20
MASK = np.zeros((HEIGHT, WIDTH), np.uint8)
MASK[4:12, 5:15] = 1
RLE = coco_mask.encode(np.asfortranarray(MASK))["counts"].decode()
RUNS = [84, *[8, 8] * 9, 8, HEIGHT * WIDTH - 84 - 17 * 8 - 16]
SIZE = [HEIGHT, WIDTH]

# --- values -----------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-5, 40), st.floats(-50, 300), st.floats(),
    st.sampled_from([0, -1, 1e300, -1e300, 2**31, 2**63, 10**400, True, False, None, "7", "1.5", "x", ""]),
)  # fmt: skip
POINTS = st.lists(st.one_of(st.integers(-3, 30), st.floats(-10, 60)), max_size=12)
POLYGONS = st.lists(st.one_of(POINTS, st.lists(NUMBERS, max_size=9)), max_size=3)
PAIRS = st.lists(st.lists(NUMBERS, max_size=3), max_size=6)
SIZES = st.one_of(st.just(SIZE), st.lists(NUMBERS, max_size=3), st.none(), st.just([WIDTH, HEIGHT]))
COUNTS = st.one_of(
    st.just(RLE), st.integers(0, len(RLE)).map(lambda n: RLE[:n]), st.text(max_size=12), st.just(RUNS),
    st.lists(NUMBERS, max_size=6), st.lists(st.integers(0, 400), max_size=5), st.none(), NUMBERS,
)  # fmt: skip
RLES = st.fixed_dictionaries({}, optional={"counts": COUNTS, "size": SIZES})
ANYTHING = st.one_of(NUMBERS, st.text(max_size=5), st.lists(NUMBERS, max_size=4), st.dictionaries(st.text(max_size=3), NUMBERS, max_size=2))  # fmt: skip # noqa: E501
GOOD_SEGMENTATIONS = st.sampled_from([[[5, 4, 15, 4, 15, 12, 5, 12]], {"counts": RLE, "size": SIZE}])
SEGMENTATIONS = st.one_of(GOOD_SEGMENTATIONS, POLYGONS, PAIRS, POINTS, RLES, ANYTHING)
BOXES = st.one_of(st.just([5, 4, 10, 8]), st.lists(NUMBERS, max_size=5), ANYTHING)


def entry(required: dict[str, Any], optional: dict[str, Any]) -> Any:
    return st.fixed_dictionaries(required, optional=optional)


GOOD_ANNOTATION = entry(
    {
        "id": st.integers(1, 10**6), "image_id": st.integers(1, 2), "category_id": st.just(1), "iscrowd": st.just(0),
        "bbox": st.just([5, 4, 10, 8]), "area": st.just(80), "segmentation": GOOD_SEGMENTATIONS,
    }, {},
)  # fmt: skip
BROKEN_ANNOTATION = entry(
    {},
    {
        "id": st.one_of(st.integers(-2, 3), ANYTHING), "image_id": st.one_of(st.integers(0, 3), ANYTHING),
        "category_id": st.one_of(st.integers(0, 3), ANYTHING), "iscrowd": st.one_of(st.sampled_from([0, 1]), ANYTHING),
        "bbox": BOXES, "area": NUMBERS, "segmentation": SEGMENTATIONS, "ignore": NUMBERS,
    },
)  # fmt: skip
# One key of a good annotation is replaced or removed: most of what people bring.
ALMOST_GOOD = st.builds(
    lambda good, broken, key: {k: v for k, v in {**good, **{key: broken.get(key, ...)}}.items() if v is not ...},
    GOOD_ANNOTATION, BROKEN_ANNOTATION,
    st.sampled_from(["id", "image_id", "category_id", "iscrowd", "bbox", "area", "segmentation"]),
)  # fmt: skip
ANNOTATIONS = st.lists(st.one_of(GOOD_ANNOTATION, ALMOST_GOOD, BROKEN_ANNOTATION, ANYTHING), max_size=6)
IMAGE = entry(
    {"id": st.integers(1, 2), "file_name": st.sampled_from(["1.png", "2.png"])},
    {"height": st.one_of(st.just(HEIGHT), NUMBERS), "width": st.one_of(st.just(WIDTH), NUMBERS)},
)
GOOD_IMAGES = st.just([{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (1, 2)])
GOOD_CATEGORIES = st.just([{"id": 1, "name": "cell"}, {"id": 2, "name": "debris"}])
CATEGORY = entry({"id": st.one_of(st.integers(0, 3), NUMBERS), "name": st.one_of(st.just("cell"), ANYTHING)}, {})


# Broken annotations in a good file, and files that are broken elsewhere.
ANNOTATION_FILES = st.fixed_dictionaries(
    {"images": GOOD_IMAGES, "categories": GOOD_CATEGORIES, "annotations": ANNOTATIONS}
)
BROKEN_FILES = st.fixed_dictionaries(
    {
        "images": st.one_of(GOOD_IMAGES, st.lists(IMAGE, max_size=3), ANYTHING),
        "categories": st.one_of(GOOD_CATEGORIES, st.lists(CATEGORY, max_size=3), ANYTHING),
    },
    optional={"annotations": st.one_of(ANNOTATIONS, ANYTHING)},
)


# --- what is done with a file -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("properties")
    for i in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT), (9, 90, 200)).save(folder / f"{i}.png")
    yield folder
    fuzz_targets.forget(NAME)


def use(json_file: Path, image_root: Path, masks: bool) -> str:
    """Read, map, round-trip and evaluate a data set; return "used" or "refused"."""
    try:
        fuzz_targets.exercise_dataset(json_file, image_root, masks)
    except InputError as error:
        assert "\n" not in str(error).partition(": ")[0] and len(str(error)) < 5000
        return "refused"
    return "used"


SETTINGS = hypothesis.settings(
    max_examples=int(os.environ.get("TELLAPART_EXAMPLES", 300)),
    deadline=SECONDS_PER_EXAMPLE * 1000,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)


def check(folder: Path, content: Any, masks: bool) -> None:
    logging.disable(logging.CRITICAL)
    try:
        (folder / "a.json").write_text(json.dumps(content))
        hypothesis.event(use(folder / "a.json", folder, masks))
    finally:
        logging.disable(logging.NOTSET)


@SETTINGS
@hypothesis.given(content=ANNOTATION_FILES, masks=st.booleans())
def test_any_annotations_are_used_or_refused(folder, content, masks):
    check(folder, content, masks)


@SETTINGS
@hypothesis.given(content=BROKEN_FILES, masks=st.booleans())
def test_any_file_is_used_or_refused(folder, content, masks):
    check(folder, content, masks)


@SETTINGS
@hypothesis.given(annotations=st.lists(GOOD_ANNOTATION, min_size=1, max_size=5, unique_by=lambda one: one["id"]))
def test_good_files_are_not_changed(folder, annotations):
    content = {"images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (1, 2)]}
    content |= {"categories": [{"id": 1, "name": "cell"}], "annotations": annotations}
    (folder / "b.json").write_text(json.dumps(content))
    fuzz_targets.forget(NAME)
    register_coco_folder(NAME, str(folder / "b.json"), str(folder))
    read = read_dataset(NAME, masks=True)
    assert not read.changes and read.coco is None
    found = [one["segmentation"] for record in read.records for one in record["annotations"]]
    by_image = [one["segmentation"] for i in (1, 2) for one in annotations if one["image_id"] == i]
    assert found == by_image
