"""Prediction of folders: broken images are named, a stopped run goes on, tables and COCO files are whole."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

from tellapart import InputError, Predictor
from tellapart.inference.folder import KINDS, parse_kinds, predict_folder
from tellapart.inference.image_files import find_images, result_names
from tellapart_cli import main

import cv2
import numpy as np
import pytest
import tifffile
from pycocotools.coco import COCO


@pytest.fixture
def fifty(tmp_path) -> Path:
    """A folder of 50 files: colors, gray, 16 bits, one pixel, and 5 that cannot be read."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        cv2.imwrite(str(folder / f"color_{i:02d}.png"), rng.integers(0, 255, (40, 50, 3), np.uint8))
    cv2.imwrite(str(folder / "gray.png"), rng.integers(0, 255, (33, 44), np.uint8))
    cv2.imwrite(str(folder / "deep.png"), rng.integers(0, 4096, (33, 44)).astype(np.uint16))
    tifffile.imwrite(folder / "deep.tif", rng.integers(0, 4096, (33, 44)).astype(np.uint16))
    tifffile.imwrite(folder / "float.tif", rng.random((33, 44)).astype(np.float32))
    cv2.imwrite(str(folder / "one_pixel.png"), np.zeros((1, 1, 3), np.uint8))
    for i in range(2):
        (folder / f"empty_{i}.png").touch()
    whole = (folder / "color_00.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no image")
    (folder / "cut.tif").write_bytes((folder / "deep.tif").read_bytes()[:100])
    return folder


def read_csv(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def command(folder: Path, run: Path, output: Path, *more: str) -> list[str]:
    return ["predict", str(folder), "--model", str(run), "--output", str(output), *more]


def test_broken_images_are_named_and_the_others_are_predicted(fifty, run_folder, tmp_path, capsys):
    run, output = run_folder("mask_rcnn") / "output", tmp_path / "results"
    with pytest.raises(SystemExit) as stopped:
        main(command(fifty, run, output, "--save", ",".join(KINDS), "--threshold", "0.0"))
    assert stopped.value.code == 1
    errors = capsys.readouterr().err
    for name in ("empty_0.png", "empty_1.png", "cut.png", "cut.tif", "text.jpg"):
        assert f"{name} cannot be predicted: " in errors
    assert "5 of 50 images could not be predicted" in errors
    images = read_csv(output / "images.csv")
    assert len(images) == 50 and sum(bool(row["error"]) for row in images) == 5
    found = {row["image"]: int(row["instances"]) for row in images if not row["error"]}
    assert len(found) == 45 and len({row["image"] for row in images}) == 50
    rows = read_csv(output / "instances.csv")
    assert sum(found.values()) == len(rows) > 0
    for folder, number in (("labels", 45), ("overlays", 45), ("rois", 45), ("geojson", 45)):
        names = [path for path in (output / folder).iterdir() if not path.stem.endswith("_stack")]
        assert len(names) == number, folder
    assert not list(output.rglob("*.part"))
    coco = COCO(str(output / "coco_images.json"))
    results = coco.loadRes(str(output / "coco_results.json"))
    assert len(results.anns) == len(rows) and len(coco.imgs) == 45
    labels = tifffile.imread(output / "labels" / "deep.tif.tif")
    assert labels.shape == (33, 44)


def test_the_same_command_with_resume_does_the_rest(fifty, run_folder, tmp_path, capsys):
    run, output = run_folder("mask_rcnn") / "output", tmp_path / "results"
    predictor = Predictor(run, threshold=0.0)
    whole = tmp_path / "whole"
    assert len(list(predict_folder(predictor, [fifty], whole, progress=False))) == 50
    stopped = predict_folder(predictor, [fifty], output, progress=False)
    first = [next(stopped) for _ in range(12)]
    stopped.close()  # as after Ctrl-C: no more images
    assert not (output / "instances.csv").exists()
    rest = list(predict_folder(predictor, [fifty], output, resume=True, progress=False))
    done = [result for result in first if not result.error]
    assert sum(result.num_instances is None and not result.error for result in rest) == len(done)
    for name in ("instances.csv", "images.csv"):
        assert (output / name).read_text() == (whole / name).read_text()
    # With another threshold, everything is predicted again.
    again = list(predict_folder(Predictor(run, threshold=0.9), [fifty], output, resume=True, progress=False))
    assert all(result.num_instances is not None or result.error for result in again)


def test_ctrl_c_leaves_whole_files_and_says_how_to_go_on(fifty, run_folder, tmp_path):
    run, output = run_folder("mask_rcnn") / "output", tmp_path / "results"
    script = (
        "import tellapart.inference.folder as folder; from tellapart_cli import main; import sys\n"
        "predict, count = folder._Job.predict, [0]\n"
        "def interrupted(self, *args):\n"
        "    count[0] += 1\n"
        "    if count[0] > 7: raise KeyboardInterrupt\n"
        "    return predict(self, *args)\n"
        "folder._Job.predict = interrupted\n"
        "main(sys.argv[1:])"
    )
    words = [sys.executable, "-c", script, *command(fifty, run, output)]
    result = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert result.returncode == 130 and "--resume goes on" in result.stderr, result.stderr
    assert not list(output.rglob("*.part")) and 0 < len(list((output / "labels").iterdir())) <= 7
    assert all(tifffile.imread(path).ndim == 2 for path in (output / "labels").glob("*[!k].tif"))


def test_names_of_results(tmp_path):
    for name in ("a.png", "a.tif", "b.png", "sub/a.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files = find_images([tmp_path, tmp_path / "sub", str(tmp_path / "*.png")])
    assert result_names(files) == ["a.png", "a.tif", "b", "sub/a"]
    with pytest.raises(InputError, match="no file, folder or match"):
        find_images([tmp_path / "nothing*"])
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(InputError, match="has no image.* inner"):
        find_images([tmp_path / "empty"])


def test_kinds_of_files():
    assert parse_kinds("csv, labels,csv") == ("csv", "labels")
    with pytest.raises(InputError, match="did you mean labels"):
        parse_kinds("label")
    with pytest.raises(InputError, match="empty"):
        parse_kinds(",")


def test_an_output_folder_that_cannot_be_written_to(fifty, run_folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be used"):
        next(predict_folder(Predictor(run_folder("fcis") / "output"), [fifty], tmp_path / "file", progress=False))


@pytest.mark.parametrize("model", ["fcis", "instance_fcn", "semiconv"])
def test_every_kind_of_model_writes_every_kind_of_file(model, fifty, run_folder, tmp_path):
    predictor = Predictor(run_folder(model) / "output", threshold=0.0)
    results = list(predictor.predict_folder([fifty / "gray.png"], tmp_path / "out", save=KINDS, progress=False))
    assert [result.error for result in results] == [""]
    coco = json.loads((tmp_path / "out" / "coco_images.json").read_text())
    assert [category["name"] for category in coco["categories"]] == predictor.class_names
