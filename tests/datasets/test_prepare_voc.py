"""prepare_voc_sds.py, on a small folder in SBD's layout."""

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import tellapart  # noqa: F401
from tellapart.data import read_dataset
from tellapart.data.prepared import VOC_CLASSES, register_prepared
from tellapart.errors import InputError

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "prepare_voc_sds.py"
spec = importlib.util.spec_from_file_location("prepare_voc_sds", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


@pytest.fixture
def savemat():
    """scipy.io.savemat; the tests that need it are skipped without scipy."""
    return pytest.importorskip("scipy.io").savemat


def save(root, image_id, labels, categories, savemat):
    """Write an image and its instances in SBD's format, a struct in a struct array."""
    for folder in ("img", "inst"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*labels.shape[:2], 3), np.uint8)).save(root / "img" / f"{image_id}.jpg")
    content = {"Segmentation": labels, "Categories": np.array(categories, np.uint8)[:, None]}
    savemat(root / "inst" / f"{image_id}.mat", {"GTinst": content})


def tree(root, savemat):
    """Two training images and one for validation; one has void pixels and a category without pixels."""
    labels = np.zeros((3, 20, 24), np.uint8)
    labels[0, 2:8, 3:9], labels[0, 8:12, 3:9] = 1, 2
    labels[1, 4:9, 4:20], labels[1, 9, 4:20], labels[1, 12:, 12:] = 1, 255, 3
    labels[2, :5] = 1
    for image, image_id, categories in zip(labels, ("2008_01", "2008_02", "2009_03"), ([15, 1], [20, 7, 15], [8])):
        save(root, image_id, image, categories, savemat)
    (root / "train.txt").write_text("2008_01\n2008_02\n")
    (root / "val.txt").write_text("2009_03\n")
    return labels


def test_round_trip(tmp_path, savemat, caplog):
    labels = tree(tmp_path, savemat)
    assert script.prepare(tmp_path, tmp_path / "out") == {"train": (2, 4), "val": (1, 1)}
    assert "train.txt lists 2 images; the list of the SDS protocol has 5623" in caplog.text
    images, found = {}, []
    for split in ("train", "val"):
        content = json.loads((tmp_path / "out" / f"instances_{split}.json").read_text())
        assert [category["name"] for category in content["categories"]] == VOC_CLASSES
        images.update({image["id"]: image["file_name"] for image in content["images"]})
        for image in content["images"]:
            assert (image["height"], image["width"]) == (20, 24)
        for entry in content["annotations"]:
            found.append((images[entry["image_id"]], entry["category_id"], coco_mask.decode(entry["segmentation"])))
    expected = [("2008_01", 15, 0, 1), ("2008_01", 1, 0, 2), ("2008_02", 20, 1, 1), ("2008_02", 15, 1, 3)]
    expected.append(("2009_03", 8, 2, 1))
    assert [entry[:2] for entry in found] == [(f"{image_id}.jpg", category) for image_id, category, _, _ in expected]
    for (_, _, mask), (_, _, image, label) in zip(found, expected):
        np.testing.assert_array_equal(mask, labels[image] == label)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["instances_train.json", "instances_val.json"]


def test_every_problem_is_named(tmp_path, savemat):
    labels = tree(tmp_path, savemat)
    save(tmp_path, "few", labels[1], [1, 2], savemat)
    save(tmp_path, "void", labels[0], [1, 255], savemat)
    save(tmp_path, "wide", labels[0].astype(np.uint16), [1, 2], savemat)
    save(tmp_path, "small", labels[0][:9], [1, 2], savemat)
    Image.fromarray(labels[0]).save(tmp_path / "img" / "small.jpg")
    (tmp_path / "inst" / "broken.mat").write_bytes(b"MATLAB")
    (tmp_path / "img" / "broken.jpg").write_bytes((tmp_path / "img" / "few.jpg").read_bytes()[:300])
    savemat(tmp_path / "inst" / "2008_01.mat", {"GTcls": 1})
    (tmp_path / "train.txt").write_text("2008_01 few void wide small broken nowhere 2009_03")
    (tmp_path / "val.txt").write_text("2009_03\n2009_03")
    with pytest.raises(InputError) as error:
        script.prepare(tmp_path, tmp_path / "out")
    for part in (
        "11 problem(s)",
        "val.txt lists 2 images, 1 different ones",
        "1 images are in both train.txt and val.txt, for example 2009_03",
        "inst/2008_01.mat cannot be read: KeyError: 'GTinst'",
        "inst/few.mat: instance 3 has none of the 2 Categories",
        "inst/void.mat: Categories are [1, 255], expected 1 to 20",
        "inst/wide.mat: Segmentation is uint16 (20, 24), expected uint8 (H, W)",
        "inst/small.mat is 24 x 9 pixels, its image 24 x 20",
        "broken.jpg cannot be read",
        "inst/broken.mat cannot be read",
        "nowhere.jpg cannot be read",
        "inst/nowhere.mat cannot be read: FileNotFoundError",
    ):
        assert part in str(error.value)
    assert not (tmp_path / "out").exists()


def test_missing_lists_folder_and_scipy(tmp_path, savemat, monkeypatch):
    with pytest.raises(InputError, match="no folder .*nowhere"):
        script.prepare(tmp_path / "nowhere", tmp_path)
    with pytest.raises(InputError, match=r"train.txt cannot be read: .*\n.*val.txt cannot be read"):
        script.prepare(tmp_path, tmp_path)
    tree(tmp_path, savemat)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="instances_train.json cannot be written: (Not a dir|File exists)"):
        script.prepare(tmp_path, tmp_path / "file")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(InputError, match="pip install scipy"):
        script.prepare(tmp_path, tmp_path)


@pytest.mark.parametrize("read_only", [False, True])
def test_command_and_registered_set(tmp_path, savemat, monkeypatch, read_only):
    """Images are read from the original folder, even if the JSON files are in the cache folder."""
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    tree(tmp_path / "voc_sds", savemat)
    if read_only:
        (tmp_path / "voc_sds").chmod(0o555)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert (tmp_path / "cache" / "voc_sds").is_dir()
    register_prepared("voc_sds", {"tellapart_test_voc": "train"}, VOC_CLASSES, [[0, 0, 0]] * 20, "img")
    try:
        assert read_dataset("tellapart_test_voc").classes == VOC_CLASSES
        first, second = DatasetCatalog.get("tellapart_test_voc")
        assert first["file_name"] == str(tmp_path / "voc_sds" / "img" / "2008_01.jpg")
        assert [entry["category_id"] for entry in second["annotations"]] == [19, 14]
    finally:
        DatasetCatalog.remove("tellapart_test_voc")
        MetadataCatalog.remove("tellapart_test_voc")


def test_the_set_is_in_the_catalogs():
    metadata = MetadataCatalog.get("voc_sds_val")
    assert metadata.thing_classes == VOC_CLASSES == sorted(VOC_CLASSES) and len(VOC_CLASSES) == 20
    assert metadata.thing_colors[0] == [128, 0, 0] and metadata.thing_colors[19] == [0, 64, 128]
    assert "voc_sds_train" in DatasetCatalog.list()
