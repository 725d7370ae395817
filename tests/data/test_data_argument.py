"""The data sets that a command line names: folders of label images and COCO files."""

from __future__ import annotations

import json
from pathlib import Path

from tellapart.data.data_argument import register_argument
from tellapart.data.reader import read_dataset
from tellapart.errors import InputError

import numpy as np
import pytest
import tifffile
from detectron2.data import MetadataCatalog
from PIL import Image

pytestmark = pytest.mark.usefixtures("own_catalogs")
LABELS = np.zeros((20, 30), np.uint16)
LABELS[2:8, 3:9], LABELS[8:12, 3:9], LABELS[15:18, 20:30] = 1, 2, 700


def write(images: Path, labels: Path, suffix: str, names: str = "ab") -> None:
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("L", (30, 20)).save(images / f"{name}.png")
        tifffile.imwrite(labels / f"{name}{suffix}.tif", LABELS)


@pytest.mark.parametrize("images, labels, suffix, argument, name", [
    ("cells", "cells", "_cp_masks", "cells", "cells"),  # Cellpose
    ("cells/images", "cells/masks", "", "cells", "cells"),  # StarDist
    ("cells/images", "cells/images", "_labels", "cells", "cells"),
    ("raw", "drawn", "", "drawn:raw", "raw"),
    ("raw", "drawn", "", "mine=drawn:raw", "mine"),
])  # fmt: skip
def test_folders_of_label_images(tmp_path, monkeypatch, images, labels, suffix, argument, name):
    monkeypatch.chdir(tmp_path)
    write(Path(images), Path(labels), suffix)
    assert register_argument(argument) == name
    content = read_dataset(name)
    assert [len(record["annotations"]) for record in content.records] == [3, 3]
    assert all(Path(record["file_name"]).is_file() for record in content.records)
    if "=" not in argument and argument != name:
        assert register_argument(argument) == f"{name}_2"


def test_a_changed_label_image_is_read_again(tmp_path):
    write(tmp_path / "cells", tmp_path / "cells", "_masks")
    first = register_argument(str(tmp_path / "cells"))
    files = list((tmp_path / "cache" / "labels").iterdir())
    before = files[0].stat().st_mtime_ns
    assert len(read_dataset(first).records) == 2
    register_argument(str(tmp_path / "cells"))
    assert files[0].stat().st_mtime_ns == before  # not written again
    write(tmp_path / "cells", tmp_path / "cells", "_masks", "abc")
    assert len(read_dataset(register_argument(str(tmp_path / "cells"))).records) == 3


def test_a_folder_with_one_coco_file(tmp_path):
    (tmp_path / "cells" / "images").mkdir(parents=True)
    (tmp_path / "cells" / "settings.json").write_text("{}")
    content = {"images": [], "categories": [], "annotations": []}
    (tmp_path / "cells" / "train.json").write_text(json.dumps(content))
    assert register_argument(str(tmp_path / "cells")) == "cells"
    assert MetadataCatalog.get("cells").image_root == str(tmp_path / "cells" / "images")
    (tmp_path / "cells" / "val.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="has 2 COCO files: name one, such as .*train.json:"):
        register_argument(str(tmp_path / "cells"))


@pytest.mark.parametrize("argument, message", [
    ("nowhere", "there is no file nowhere, and no data set is registered under this name; expected"),
    ("nowhere.json", "there is no file nowhere.json; expected"),
    ("a=nowhere.json:images", "there is no file nowhere.json; expected"),
    (".", "is no data set: expected images with label images"),
    ("masks:nowhere", "there is no folder"),
])  # fmt: skip
def test_what_is_no_data_set(tmp_path, monkeypatch, argument, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match=message):
        register_argument(argument)


def test_images_without_labels_are_named(tmp_path):
    write(tmp_path / "cells", tmp_path / "cells", "_masks")
    Image.new("L", (30, 20)).save(tmp_path / "cells" / "c.png")
    with pytest.raises(InputError, match="1 of 3 images have no labels in .*c.png"):
        register_argument(str(tmp_path / "cells"))
