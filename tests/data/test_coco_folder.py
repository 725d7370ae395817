"""User data in COCO format: registration as in Detectron2, and one message for every problem before training."""

import copy
import json

import tellapart  # noqa: F401
from tellapart.data import check_coco_dataset, check_dataset, parse_register_flag, register_coco_folder
from tellapart.data.coco_folder import coco_annotation
from tellapart.errors import InputError

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
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
        {**coco_annotation(6, 2, 4, MASK), "segmentation": [[1, 1, 5, 1, 5, 4]]},
        {**coco_annotation(7, 2, 4, MASK), "segmentation": {"size": [6, 8], "counts": [10, 8, 30]}, "iscrowd": 1},
    ],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.new("L", (8, 6)).save(tmp_path / "images" / name)
    return tmp_path


def check(folder, content):
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    path = folder / "set.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return check_coco_dataset("mine", str(path), str(folder / "images"))


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
    assert check(folder, CONTENT) == ["early", "late"]


def test_changed_file_is_checked_again(folder):
    check(folder, CONTENT)
    with pytest.raises(InputError, match="no 'annotations'"):
        check(folder, changed("annotations", ...))


def test_registered_set_is_what_detectron2_loads(folder):
    (folder / "set.json").write_text(json.dumps(CONTENT))
    register_coco_folder("tellapart_test_mine", str(folder / "set.json"), str(folder / "images"))
    try:
        assert check_dataset("tellapart_test_mine") == ["early", "late"]
        dicts = DatasetCatalog.get("tellapart_test_mine")
        assert [[a["category_id"] for a in one["annotations"]] for one in dicts] == [[1], [0, 0]]
        metadata = MetadataCatalog.get("tellapart_test_mine")
        assert metadata.thing_classes == ["early", "late"]
        assert metadata.thing_dataset_id_to_contiguous_id == {4: 0, 9: 1}
        with pytest.raises(InputError, match="tellapart_test_mine is registered already"):
            register_coco_folder("tellapart_test_mine", "other.json", "other")
    finally:
        DatasetCatalog.remove("tellapart_test_mine")
        MetadataCatalog.remove("tellapart_test_mine")


def test_boxes_without_masks_are_fine_if_all_are(folder):
    content = copy.deepcopy(CONTENT)
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    assert check(folder, content) == ["early", "late"]


def test_degenerate_polygon_is_left_to_detectron2(folder):
    check(folder, changed("annotations", 1, "segmentation", [[1, 1, 5, 1, 5, 4], [1, 1]]))


FAULTS = {
    "truncated": (json.dumps(CONTENT)[:-30], r"set\.json is not valid JSON: .* at line 1, column \d+"),
    "second line": ('{\n"images": [,]}', r"line 2, column 12"),
    "not text": (b"\xff\xfe\x00", r"set\.json can't be read"),
    "a list": ("[]", r"top level is a list"),
    "no categories": (changed("categories", ...), r"no 'categories'; found 'images', 'annotations'"),
    "images no list": (changed("images", {}), r"'images' is not a list of objects"),
    "no images": (changed("images", []), r"'images' is empty"),
    "image without height": (changed("images", 1, "height", ...), r"image 2: 'height' is missing, expected int"),
    "image without id": (changed("images", 1, "id", ...), r"image number 2: 'id' is missing"),
    "image of no size": (changed("images", 0, "width", 0), r"image 1 has the size 0 x 6"),
    "image id twice": (changed("images", 1, "id", 1), r"image id used more than once: 1"),
    "category id twice": (changed("categories", 1, "id", 9), r"category id used more than once: 9"),
    "annotation id twice": (changed("annotations", 1, "id", 5), r"annotation id used more than once: 5"),
    "missing file": (changed("images", 1, "file_name", "c.png"), r"1 of 2 images are not in .*images: c\.png$"),
    "missing folder": (changed("images", 1, "file_name", "no/c.png"), r"not in .*images: no/c\.png$"),
    "unknown image": (changed("annotations", 1, "image_id", 77), r"annotation 6 names image 77, which is not in"),
    "unknown category": (changed("annotations", 0, "category_id", 1), r"annotation 5 names category 1, which is not"),
    "no box": (changed("annotations", 0, "bbox", ...), r"annotation 5: 'bbox' is missing, expected list"),
    "short box": (changed("annotations", 0, "bbox", [1, 2, 3]), r"annotation 5 \(image 1\): 'bbox' is \[1, 2, 3\]"),
    "negative box": (changed("annotations", 0, "bbox", [1, 2, -3, 4]), r"annotation 5 .* 'bbox' is \[1, 2, -3, 4\]"),
    "box of text": (changed("annotations", 0, "bbox", ["1", 2, 3, 4]), r"annotation 5 .* 'bbox' is"),
    "odd polygon": (changed("annotations", 1, "segmentation", [[1, 2, 3]]), r"annotation 6 .* polygon \[1, 2, 3\]"),
    "flat polygon": (changed("annotations", 1, "segmentation", [1, 2, 3, 4, 5, 6]), r"annotation 6 .* polygon 1 is"),
    "polygon of text": (changed("annotations", 1, "segmentation", [["1", "2"] * 3]), r"annotation 6 .* not a list"),
    "empty mask": (changed("annotations", 1, "segmentation", []), r"annotation 6 .* 'segmentation' is \[\]"),
    "one without mask": (changed("annotations", 1, "segmentation", ...), r"annotation 6 has no 'segm.* 2 others"),
    "RLE of other size": (
        changed("annotations", 0, "segmentation", {**RLE, "size": [8, 6]}),
        r"annotation 5 .* 'size' is \[8, 6\], its image's is \[6, 8\]",
    ),
    "RLE too short": (changed("annotations", 2, "segmentation", "counts", [10, 8]), r"annotation 7 .* add up to 6 x 8"),
    "RLE without counts": (changed("annotations", 2, "segmentation", "counts", ...), r"annotation 7 .* 'counts'"),
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
    with pytest.raises(InputError, match=r"5 of 7 images are not in .*: 10\.png, 11\.png, 12\.png and 2 more"):
        check(folder, content)


def test_missing_paths(folder):
    with pytest.raises(InputError, match=r"no image folder .*nowhere"):
        check_coco_dataset("mine", str(folder / "set.json"), str(folder / "nowhere"))
    with pytest.raises(InputError, match=r"no annotation file .*none\.json"):
        check_coco_dataset("mine", str(folder / "none.json"), str(folder / "images"))


def test_unknown_data_set_names_the_nearest():
    with pytest.raises(InputError, match=r"no data set shapes_valid; did you mean shapes_val"):
        check_dataset("shapes_valid")


def test_annotation_0_is_warned_of(folder, caplog):
    check(folder, changed("annotations", 0, "id", 0))
    assert "number annotations from 1" in caplog.text


def test_register_flag(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_register_flag("a=~/b.json:c/d") == ("a", "/home/me/b.json", "c/d")
    assert parse_register_flag("a=s3://x/b.json:c") == ("a", "s3://x/b.json", "c")
    for text in ("a", "a=b", "a=:c", "=b:c", "a=b:"):
        with pytest.raises(InputError, match="NAME=JSON:IMAGES"):
            parse_register_flag(text)
