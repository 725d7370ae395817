"""prepare_labels.py: label images, single masks and YOLO segmentations become COCO files with the same masks."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import tellapart  # noqa: F401
from tellapart.data.coco_folder import register_coco_folder
from tellapart.data.label_folder import write_coco_of_labels
from tellapart.data.label_images import label_rles, read_labels
from tellapart.data.reader import read_dataset, release_dataset
from tellapart.errors import InputError

import numpy as np
import pytest
import tifffile
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "datasets" / "prepare_labels.py"
_SPEC = importlib.util.spec_from_file_location("prepare_labels", SCRIPT)
labels_script = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(labels_script)

LABELS = np.zeros((20, 30), np.int32)
LABELS[2:8, 3:9], LABELS[8:12, 3:9], LABELS[15:18, 20:30], LABELS[0, 0] = 1, 2, 700, 700


def masks_of(output: Path) -> list[list[np.ndarray]]:
    """Return the masks per image."""
    content = json.loads(output.read_text())
    masks: dict[int, list] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        masks[annotation["image_id"]].append(coco_mask.decode(annotation["segmentation"]) > 0)
        assert annotation["area"] == masks[annotation["image_id"]][-1].sum()
    return list(masks.values())


def folder_of_images(tmp_path: Path, names=("a", "b")) -> Path:
    (tmp_path / "images").mkdir()
    for name in names:
        Image.new("RGB", (30, 20)).save(tmp_path / "images" / f"{name}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("seed", range(5))
def test_rles_are_those_of_the_single_masks(seed):
    labels = np.random.default_rng(seed).integers(0, 5, (1 + 4 * seed, 11)) * 3
    rles = label_rles(labels)
    values = [value for value in np.unique(labels) if value]
    assert len(rles) == len(values)
    for rle, value in zip(rles, values):
        assert np.array_equal(coco_mask.decode(rle), labels == value)
    assert label_rles(np.zeros((3, 4), int)) == label_rles(np.zeros((0, 4), int)) == []


@pytest.mark.parametrize("kind", ["16-bit TIFF", "float TIFF", "16-bit PNG", "palette", "colors", "beside the images"])
def test_label_images(tmp_path, kind):
    images = folder_of_images(tmp_path)
    labels = images if kind == "beside the images" else tmp_path / "labels"
    labels.mkdir(exist_ok=True)
    small = np.searchsorted(np.unique(LABELS), LABELS)
    for name in ("a", "b"):
        if kind == "16-bit TIFF":
            tifffile.imwrite(labels / f"{name}.tif", LABELS.astype(np.uint16))
        elif kind == "float TIFF":
            tifffile.imwrite(labels / f"{name}.tif", LABELS.astype(np.float32))
        elif kind == "16-bit PNG":
            Image.fromarray(LABELS.astype(np.uint16)).save(labels / f"{name}_cp_masks.png")
        elif kind == "palette":
            image = Image.fromarray((small + 3).astype(np.uint8), "P")
            image.putpalette([9, 9, 9] * 3 + [0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
            image.save(labels / f"{name}.png")
        elif kind == "colors":
            colors = np.stack([small * 40, small * 9, 255 - small * 3], -1).astype(np.uint8)
            Image.fromarray(colors * (small > 0)[..., None].astype(np.uint8)).save(labels / f"{name}.png")
        else:
            Image.fromarray(small.astype(np.uint8)).save(labels / f"{name}_masks.png")
    given = None if kind == "beside the images" else labels
    assert write_coco_of_labels(images, given, tmp_path / "out.json", "cell") == (2, 6)
    for masks in masks_of(tmp_path / "out.json"):
        values = [value for value in np.unique(small) if value]
        assert all(any(np.array_equal(mask, small == value) for mask in masks) for value in values)


def test_one_file_per_object(tmp_path):
    images = folder_of_images(tmp_path, ("a",))
    (tmp_path / "masks" / "a").mkdir(parents=True)
    for i, value in enumerate((1, 2, 700)):
        Image.fromarray((value == LABELS).astype(np.uint8) * 255).save(tmp_path / "masks" / "a" / f"{i}.png")
    (tmp_path / "masks" / "a" / "._0.png").write_bytes(b"Mac OS")
    assert write_coco_of_labels(images, tmp_path / "masks", tmp_path / "out.json", "cell") == (1, 3)
    (masks,) = masks_of(tmp_path / "out.json")
    assert all(np.array_equal(mask, value == LABELS) for mask, value in zip(masks, (1, 2, 700)))


def test_the_file_can_be_registered(tmp_path):
    images = folder_of_images(tmp_path)
    for name in ("a", "b"):
        tifffile.imwrite(images / f"{name}_masks.tif", LABELS * (name == "a"))
    write_coco_of_labels(images, None, tmp_path / "out.json", "cell")
    register_coco_folder("prepared_labels", str(tmp_path / "out.json"), str(images))
    try:
        content = read_dataset("prepared_labels")
        assert content.classes == ["cell"] and [len(record["annotations"]) for record in content.records] == [3, 0]
        assert not content.changes
    finally:
        release_dataset("prepared_labels", None)
        DatasetCatalog.remove("prepared_labels")
        MetadataCatalog.pop("prepared_labels")


def test_all_problems_in_one_message(tmp_path):
    images = folder_of_images(tmp_path, ("a", "b", "c", "d"))
    (tmp_path / "labels" / "d").mkdir(parents=True)
    tifffile.imwrite(tmp_path / "labels" / "a.tif", LABELS[:10])
    tifffile.imwrite(tmp_path / "labels" / "b.tif", LABELS - 1)
    for i, image in enumerate((LABELS * 0 + 17 * (LABELS > 0) + 100 * (LABELS > 1), LABELS * 0)):
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "labels" / "d" / f"{i}.png")
    with pytest.raises(InputError) as error:
        write_coco_of_labels(images, tmp_path / "labels", tmp_path / "out.json", "cell")
    for part in (
        "1 of 4 images have no labels", "c.png", "a.tif is 30 x 10 pixels, its image 30 x 20", "b.tif cannot be read",
        "0.png has 2 values such as 17 and 117", "1.png is empty",
    ):  # fmt: skip
        assert part in str(error.value)
    assert not (tmp_path / "out.json").exists()


def test_cellpose_pickles_are_refused(tmp_path):
    images = folder_of_images(tmp_path)
    (images / "a_seg.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"seg\.npy are pickles"):
        write_coco_of_labels(images, None, tmp_path / "out.json", "cell")


def test_masks_with_an_inverted_palette(tmp_path):
    image = Image.fromarray((LABELS == 0).astype(np.uint8), "P")  # 1 is the background
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "mask.png")
    assert np.array_equal(read_labels(tmp_path / "mask.png") > 0, LABELS > 0)


def yolo(tmp_path: Path) -> Path:
    folder_of_images(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("1 0.1 0.1 0.5 0.1 0.5 0.5\n0 0.2 0.2 0.4 0.2 0.4 0.4 0.2 0.4\n")
    (tmp_path / "data.yaml").write_text(f"path: {tmp_path}\ntrain: images\nnames: {{0: cell, 1: debris}}\n")
    return tmp_path / "data.yaml"


def test_yolo(tmp_path):
    pytest.importorskip("labelformat")
    assert labels_script.prepare_yolo(yolo(tmp_path), "train", tmp_path / "out.json") == (2, 2)
    content = json.loads((tmp_path / "out.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["cell", "debris"]
    assert content["annotations"][0]["segmentation"][0] == pytest.approx([3, 2, 15, 2, 15, 10])
    assert {image["file_name"] for image in content["images"]} == {"a.png", "b.png"}


def test_yolo_files_that_cannot_be_read(tmp_path):
    pytest.importorskip("labelformat")
    data = yolo(tmp_path)
    with pytest.raises(InputError, match="has no 'val'"):
        labels_script.prepare_yolo(data, "val", tmp_path / "out.json")
    (tmp_path / "labels" / "a.txt").write_text("cell 0.1 x\n")
    with pytest.raises(InputError, match="labelformat cannot read it"):
        labels_script.prepare_yolo(data, "train", tmp_path / "out.json")


def test_command_line(tmp_path, monkeypatch):
    images = folder_of_images(tmp_path, ("a",))
    tifffile.imwrite(images / "a_labels.tif", LABELS)
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "projects"))
    command = [sys.executable, str(SCRIPT), "--images", str(images)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "1 images, 3 objects: tellapart check" in done.stderr
    assert (tmp_path / "cache" / "labels" / "images.json").is_file() and len(list(images.iterdir())) == 2
    assert subprocess.run([*command, "--labels", "nowhere"], capture_output=True, text=True).returncode == 2
