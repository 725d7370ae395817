"""User data in COCO format: registration as in Detectron2, and one message for every problem before training."""

import copy
import json

import tellapart  # noqa: F401
from tellapart.data import parse_register_flag, read_dataset, register_coco_folder
from tellapart.data.coco_content import read_coco
from tellapart.data.coco_folder import coco_annotation
from tellapart.errors import InputError

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from PIL import Image

MASK = np.zeros((6, 8), bool)
MASK[1:4, 2:7] = True
RLE = coco_annotation(5, 1, 9, MASK)["segmentation"]
CONTENT = {
    "images": [
        {"id": 1, "file_name": "a.png", "height": 6, "width": 8},
        {"id": 2, "file_name": "sub/b.png", "height": 6, "width": 8},
    ],
    "categories": [{"id": 9, "name": "late"}, {"id": 4, "name": "early"}],
    "annotations": [
        coco_annotation(5, 1, 9, MASK),
        {**coco_annotation(6, 2, 4, MASK), "segmentation": [[1, 1, 5, 1, 5, 4]], "bbox": [1, 1, 4, 3]},
        {
            **coco_annotation(7, 2, 4, MASK),
            "segmentation": {"size": [6, 8], "counts": [10, 8, 30]},
            "bbox": [1, 0, 2, 6],
            "iscrowd": 1,
        },
    ],
}


@pytest.fixture
def folder(tmp_path):
    MetadataCatalog.pop("mine", None)
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.new("L", (8, 6)).save(tmp_path / "images" / name)
    return tmp_path


def check(folder, content):
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    path = folder / "set.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_coco("mine", str(path), str(folder / "images"), True)


def changed(*path_and_value):
    """Return CONTENT with the value at the path replaced, or removed if it is Ellipsis."""
    *path, last, value = path_and_value
    content = copy.deepcopy(CONTENT)
    at = content
    for step in path:
        at = at[step]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return content


def test_good_set_passes_in_detectron2s_order(folder):
    content = check(folder, CONTENT)
    assert content.classes == ["early", "late"] and not content.changes and content.coco is None


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(folder, register):
    first = read_dataset(register(CONTENT))
    assert read_dataset(first.name) is first
    (folder / "set.json").write_text(json.dumps(changed("annotations", 1, ...)))
    assert sum(len(record["annotations"]) for record in read_dataset(first.name).records) == 2


@pytest.fixture
def register(folder):
    """Register content as a data set; return its name."""
    name = "tellapart_test_mine"

    def add(content):
        (folder / "set.json").write_text(json.dumps(content))
        register_coco_folder(name, str(folder / "set.json"), str(folder / "images"))
        return name

    yield add
    DatasetCatalog.pop(name, None)
    MetadataCatalog.pop(name, None)


def test_registered_set_is_what_detectron2_loads(folder, register):
    name = register(CONTENT)
    records = read_dataset(name).records
    expected = load_coco_json(str(folder / "set.json"), str(folder / "images"), "tellapart_test_expected")
    MetadataCatalog.remove("tellapart_test_expected")
    assert records == expected
    assert DatasetCatalog.get(name) == records
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == ["early", "late"]
    assert metadata.thing_dataset_id_to_contiguous_id == {4: 0, 9: 1}
    with pytest.raises(InputError, match="tellapart_test_mine is registered already"):
        register_coco_folder(name, "other.json", "other")


def test_a_set_that_detectron2_registers_is_read_from_its_file(folder):
    name = "tellapart_test_of_detectron2"
    (folder / "set.json").write_text(json.dumps(changed("annotations", 1, "iscrowd", None)))
    register_coco_instances(name, {}, str(folder / "set.json"), str(folder / "images"))
    try:
        content = read_dataset(name)
        assert [one["iscrowd"] for record in content.records for one in record["annotations"]] == [0, 0, 1]
        assert content.changes and not content.bad
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_boxes_without_masks_are_enough_for_a_model_of_boxes(folder):
    content = copy.deepcopy(CONTENT)
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    (folder / "set.json").write_text(json.dumps(content))
    for masks in (None, False):
        read = read_coco("mine", str(folder / "set.json"), str(folder / "images"), masks)
        assert not read.has_masks and not read.changes
        assert [len(record["annotations"]) for record in read.records] == [1, 2]


FAULTS = {
    "truncated": (json.dumps(CONTENT)[:-30], r"set\.json is not valid JSON: .* at line 1, column \d+"),
    "second line": ('{\n"images": [,]}', r"line 2, column 12"),
    "empty": ("", r"the file is empty"),
    "json lines": ("{}\n{}", r"as in JSON Lines"),
    "not text": (b"\xff\xfe\x00", r"set\.json cannot be read"),
    "deep": ("[" * 100000, r"nested too deeply"),
    "a list": ("[]", r"top level is a list"),
    "results": ('[{"image_id": 1, "score": 0.5}]', r"COCO results file"),
    "no categories": (changed("categories", ...), r"no 'categories'; found 'images', 'annotations'"),
    "images no list": (changed("images", {}), r"'images' is not a list of objects"),
    "annotations no list": (changed("annotations", {}), r"'annotations' is a dict, expected a list"),
    "no images": (changed("images", []), r"'images' is empty"),
    "image without id": (changed("images", 1, "id", ...), r"image number 2: 'id' is missing"),
    "image of no size": (changed("images", 0, "width", 0), r"image 1 has the size 0 x 6"),
    "image of text size": (changed("images", 0, "width", "wide"), r"image 1: 'width' is 'wide', expected a whole"),
    "image id twice": (changed("images", 1, "id", 1), r"image id used more than once: 1"),
    "image ids of two kinds": (changed("images", 1, "id", "two"), r"some image ids are numbers and others are text"),
    "category id twice": (changed("categories", 1, "id", 9), r"category id used more than once: 9"),
    "category of text": (changed("categories", 1, "id", "x"), r"category number 2: 'id' is 'x'"),
    "category without name": (changed("categories", 1, "name", None), r"category 4: 'name' is 'None', expected text"),
    "missing file": (changed("images", 1, "file_name", "c.png"), r"1 of 2 images .*c\.png"),
    "missing folder": (changed("images", 1, "file_name", "no/c.png"), r"1 of 2 images .*no/c\.png"),
    "unknown category": (changed("annotations", 0, "category_id", 1), r"annotation 5 names category '1', .*: 4, 9"),
    "no category": (changed("annotations", 0, "category_id", ...), r"annotation 5 has no 'category_id', expected"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named(folder, name):
    content, message = FAULTS[name]
    with pytest.raises(InputError, match=message) as error:
        check(folder, content)
    assert "set mine" in str(error.value)


def test_missing_files_are_named_and_counted(folder):
    content = copy.deepcopy(CONTENT)
    content["images"] += [{"id": i, "file_name": f"{i}.png", "height": 6, "width": 8} for i in range(10, 15)]
    with pytest.raises(InputError, match=r"(?s)5 of 7 images .*10\.png"):
        check(folder, content)


def test_missing_paths(folder):
    with pytest.raises(InputError, match=r"no image folder .*nowhere"):
        read_coco("mine", str(folder / "set.json"), str(folder / "nowhere"), None)
    with pytest.raises(InputError, match=r"no annotation file .*none\.json"):
        read_coco("mine", str(folder / "none.json"), str(folder / "images"), None)


def test_unknown_data_set_names_the_nearest():
    with pytest.raises(InputError, match=r"no data set shapes_valid; did you mean shapes_val"):
        read_dataset("shapes_valid")


def test_register_flag(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_register_flag("a=~/b.json:c/d") == ("a", "/home/me/b.json", "c/d")
    assert parse_register_flag("a=s3://x/b.json:c") == ("a", "s3://x/b.json", "c")
    for text in ("a", "a=b", "a=:c", "=b:c", "a=b:"):
        with pytest.raises(InputError, match="NAME=JSON:IMAGES"):
            parse_register_flag(text)
