"""prepare_bbbc010.py and prepare_dsb2018.py, on small folders in the original layouts."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import tellapart  # noqa: F401
from tellapart.data import read_dataset
from tellapart.data.prepared import register_prepared
from tellapart.errors import InputError

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask

ROOT = Path(__file__).resolve().parents[2]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "datasets" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


worms = script("prepare_bbbc010")
nuclei = script("prepare_dsb2018")


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def read_back(output, split):
    """Return {file name: (image, masks)} of a prepared split."""
    content = json.loads((output / f"instances_{split}.json").read_text())
    found = {}
    for image in content["images"]:
        masks = [a["segmentation"] for a in content["annotations"] if a["image_id"] == image["id"]]
        pixels = np.asarray(Image.open(output / "images" / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"])
        found[image["file_name"]] = pixels, [coco_mask.decode(mask).astype(bool) for mask in masks]
    return found


@pytest.fixture(scope="module")
def worm_tree(tmp_path_factory):
    """100 wells of 20 x 24 pixels with two crossing worms each, silhouettes RGBA and one row too low."""
    root = tmp_path_factory.mktemp("bbbc010")
    masks = {}
    for i, well in enumerate(worms.WELLS):
        pair = np.zeros((2, 20, 24), bool)
        pair[0, 4 + i % 5 : 7 + i % 5, 2:20] = True
        pair[1, 2:17, 8:11] = True
        masks[well] = pair
        silhouette = np.zeros((20, 24, 4), np.uint8)
        silhouette[..., 3] = 255
        silhouette[..., i % 3][np.roll(pair.any(axis=0), 1, 0)] = 255
        save(root / worms.SILHOUETTES / f"{well}_binary.png", silhouette)
        for n, mask in zip((1, 3), pair):  # the collection's numbers have gaps
            save(root / worms.WORMS / f"{well}_{n:02d}_ground_truth.png", mask.astype(np.uint8) * 255)
    (root / worms.WORMS / ".DS_Store").write_text("")
    return root, masks


def test_worms_round_trip(worm_tree, tmp_path):
    source, masks = worm_tree
    for align in (False, True):  # the second run replaces the first
        assert worms.prepare(source, tmp_path / "out", align) == {"train": (50, 100), "test": (50, 100)}
        for split, wells in (("train", worms.WELLS[:50]), ("test", worms.WELLS[50:])):
            found = read_back(tmp_path / "out", split)
            assert list(found) == [f"{well}.png" for well in wells]
            for well in wells:
                image, read = found[f"{well}.png"]
                np.testing.assert_array_equal(np.stack(read), masks[well])
                union = masks[well].any(axis=0)
                np.testing.assert_array_equal(image, (union if align else np.roll(union, 1, 0)) * np.uint8(255))


def test_every_problem_of_the_worm_tree_is_named(worm_tree, tmp_path):
    source = tmp_path / "bbbc010"
    shutil.copytree(worm_tree[0], source)
    (source / worms.SILHOUETTES / "A07_binary.png").unlink()
    for path in (source / worms.WORMS).glob("C03_*"):
        path.unlink()
    save(source / worms.WORMS / "E05_01_ground_truth.png", np.zeros((20, 24), np.uint8))
    (source / worms.SILHOUETTES / "notes.txt").write_text("")
    with pytest.raises(InputError) as error:
        worms.prepare(source, tmp_path / "out")
    for part in (
        "4 problem(s)",
        "well A07 has no silhouette",
        "well C03 has no worm",
        "E05_01_ground_truth.png is of well E05",
        "notes.txt has a name that",
    ):
        assert part in str(error.value)
    assert not (tmp_path / "out").exists()


def test_odd_worm_masks_are_named(worm_tree, tmp_path):
    source = tmp_path / "bbbc010"
    shutil.copytree(worm_tree[0], source)
    save(source / worms.WORMS / "A01_01_ground_truth.png", np.zeros((20, 24), np.uint8))
    save(source / worms.WORMS / "A02_01_ground_truth.png", np.full((10, 24), 255, np.uint8))
    cut = source / worms.SILHOUETTES / "B01_binary.png"
    cut.write_bytes(cut.read_bytes()[:60])
    with pytest.raises(InputError) as error:
        worms.prepare(source, tmp_path / "out")
    for part in (
        "A01_01_ground_truth.png is empty",
        "A02_01_ground_truth.png is 24 x 10 pixels, its silhouette 24 x 20",
        "B01_binary.png cannot be read",
    ):
        assert part in str(error.value)


def test_missing_worm_folders(tmp_path):
    with pytest.raises(InputError, match="there is no folder BBBC010_v1_foreground"):
        worms.prepare(tmp_path, tmp_path / "out")


def nucleus_tree(root):
    """Two fluorescence images, one of them in the val list, a stained one and one that is too large."""
    rng = np.random.default_rng(0)
    val = sorted(nuclei.VAL)[0] + "0123456789"
    masks = {"ffff00000000abcd": [], val: []}
    for i, image_id in enumerate(masks):
        gray = rng.integers(0, 60, (30 + i, 40), dtype=np.uint8)
        save(root / image_id / "images" / f"{image_id}.png", np.dstack([gray] * 3 + [np.full_like(gray, 255)]))
        for n in range(3):
            mask = np.zeros(gray.shape, bool)
            mask[2 + 8 * n : 8 + 8 * n, 3 * n : 9 + n] = True
            masks[image_id].append(mask)
            save(root / image_id / "masks" / f"{n}.png", mask.astype(np.uint8) * 255)
        masks[image_id] = gray, masks[image_id]
    stained = rng.integers(0, 60, (20, 20, 3), dtype=np.uint8)
    bright, large = np.full((20, 20), 200, np.uint8), np.zeros((20, 401), np.uint8)
    for image_id, pixels in (("aa", stained), ("bb", bright), ("cc", large)):
        save(root / image_id / "images" / f"{image_id}.png", pixels)
    return masks


def test_nuclei_round_trip(tmp_path):
    masks = nucleus_tree(tmp_path / "stage1_train")
    assert nuclei.prepare(tmp_path / "stage1_train", tmp_path) == {"train": (1, 3), "val": (1, 3)}
    found = {**read_back(tmp_path, "train"), **read_back(tmp_path, "val")}
    assert set(read_back(tmp_path, "val")) == {f"{sorted(nuclei.VAL)[0]}.png"}
    assert len(found) == 2
    for image_id, (gray, expected) in masks.items():
        image, read = found[f"{image_id[:12]}.png"]
        np.testing.assert_array_equal(image, gray)
        np.testing.assert_array_equal(np.stack(read), np.stack(expected))


def test_every_problem_of_the_nucleus_tree_is_named(tmp_path):
    source = tmp_path / "stage1_train"
    masks = nucleus_tree(source)
    first, second = masks
    save(source / first / "masks" / "0.png", np.zeros((30, 40), np.uint8))
    save(source / first / "masks" / "1.png", np.ones((40, 30), np.uint8))
    shutil.rmtree(source / second / "masks")
    (source / "dd").mkdir()
    with pytest.raises(InputError) as error:
        nuclei.prepare(source, tmp_path / "out")
    for part in (
        f"{first}/masks/0.png is empty",
        f"{first}/masks/1.png is 30 x 40 pixels, its image 40 x 30",
        f"{second} has no masks/*.png",
        "dd has no image images/dd.png",
    ):
        assert part in str(error.value)
    with pytest.raises(InputError, match="no folder .*nowhere"):
        nuclei.prepare(tmp_path / "nowhere", tmp_path / "out")


def test_a_foreign_images_folder_is_not_replaced(tmp_path):
    nucleus_tree(tmp_path / "stage1_train")
    (tmp_path / "out" / "images").mkdir(parents=True)
    (tmp_path / "out" / "images" / "mine.png").write_text("")
    with pytest.raises(InputError, match="was not written by this script"):
        nuclei.prepare(tmp_path / "stage1_train", tmp_path / "out")
    assert (tmp_path / "out" / "images" / "mine.png").exists()


def test_output_is_the_cache_unless_told(tmp_path, monkeypatch):
    """The source folder is not written to."""
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "sets" / "dsb2018" / "stage1_train"
    nucleus_tree(source)
    before = sorted(source.parent.rglob("*"))
    monkeypatch.setattr("sys.argv", ["prepare_dsb2018.py", "--root", str(tmp_path / "sets")])
    nuclei.main()
    assert (tmp_path / "cache" / "dsb2018" / "instances_train.json").is_file()
    assert sorted(source.parent.rglob("*")) == before
    monkeypatch.setattr("sys.argv", ["prepare_dsb2018.py", "--root", str(tmp_path / "sets"), "--output", str(tmp_path)])
    nuclei.main()
    assert (tmp_path / "instances_train.json").is_file()


def test_palettes_label_images_and_hidden_files(tmp_path):
    masks = nucleus_tree(tmp_path / "stage1_train")
    first, second = sorted(masks)
    labels = sum((i + 1) * mask.astype(np.uint8) for i, mask in enumerate(masks[first][1]))
    shutil.rmtree(tmp_path / "stage1_train" / first / "masks")
    save(tmp_path / "stage1_train" / first / "masks" / "labels.png", labels)
    for n, mask in enumerate(masks[second][1]):
        image = Image.fromarray((~mask).astype(np.uint8), "P")
        image.putpalette([255, 255, 255, 0, 0, 0])
        image.save(tmp_path / "stage1_train" / second / "masks" / f"{n}.png")
    (tmp_path / "stage1_train" / second / "masks" / "._0.png").write_bytes(b"Mac OS X")
    nuclei.prepare(tmp_path / "stage1_train", tmp_path)
    found = {**read_back(tmp_path, "train"), **read_back(tmp_path, "val")}
    for image_id, (_, expected) in masks.items():
        np.testing.assert_array_equal(np.stack(found[f"{image_id[:12]}.png"][1]), np.stack(expected))


@pytest.mark.parametrize("in_cache", [False, True])
def test_prepared_set_is_found_where_it_was_written(tmp_path, monkeypatch, in_cache):
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    nucleus_tree(tmp_path / "stage1_train")
    nuclei.prepare(tmp_path / "stage1_train", tmp_path / ("cache" if in_cache else "sets") / "dsb2018")
    register_prepared("dsb2018", {"tellapart_test_nuclei": "val"}, ["nucleus"], [[1, 2, 3]])
    try:
        assert read_dataset("tellapart_test_nuclei").classes == ["nucleus"]
        assert len(DatasetCatalog.get("tellapart_test_nuclei")[0]["annotations"]) == 3
    finally:
        DatasetCatalog.remove("tellapart_test_nuclei")
        MetadataCatalog.remove("tellapart_test_nuclei")


def test_unprepared_set_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    register_prepared("bbbc010", {"tellapart_test_worms": "train"}, ["worm"], [[1, 2, 3]])
    try:
        for look in (read_dataset, DatasetCatalog.get):
            with pytest.raises(InputError, match=r"python datasets/prepare_bbbc010\.py"):
                look("tellapart_test_worms")
    finally:
        DatasetCatalog.remove("tellapart_test_worms")
        MetadataCatalog.remove("tellapart_test_worms")


def test_names_of_the_collections():
    """The 100 wells of BBBC010 in order, and the ids of the 60 validation images of the Data Science Bowl."""
    assert len(worms.WELLS) == 100 and sorted(set(worms.WELLS)) == worms.WELLS
    assert [worms.WELLS[i] for i in (0, 1, 24, 99)] == ["A01", "A02", "B01", "E04"]
    assert len(nuclei.VAL) == 60 and all(re.fullmatch("[0-9a-f]{12}", image_id) for image_id in nuclei.VAL)


def test_the_real_collections(shared_data):
    """BBBC010 and the prepared nuclei in the shared folder."""
    assert [path.name[:3] for path in sorted((shared_data / "bbbc010" / worms.SILHOUETTES).iterdir())] == worms.WELLS
    content = json.loads((shared_data / "dsb2018" / "instances_val.json").read_text())
    assert {image["file_name"][:12] for image in content["images"]} == nuclei.VAL
    for image in content["images"]:
        pixels = np.asarray(Image.open(shared_data / "dsb2018" / "images" / image["file_name"]))
        assert nuclei.is_fluorescence(pixels) and max(pixels.shape) <= nuclei.MAX_SIDE
