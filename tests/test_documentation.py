"""The documentation: Python snippets run as they stand, and the files and configs that it names exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tellapart.data.label_folder import coco_file_of_labels
from tellapart.data.synthetic.shapes import draw_shapes
from tellapart_cli import main

import cv2
import nbformat
import numpy as np
import pytest
import tifffile
from detectron2.data import DatasetCatalog, MetadataCatalog
from nbclient import NotebookClient
from robustness.case import one_set

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = [
    pytest.param(code, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S))
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_python_snippet_runs(code, tmp_path, run_folder):
    """In a folder outside the repository, without a GPU."""
    prepare(tmp_path, run_folder("fcis"))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT / "projects")}
    command = [sys.executable, "-W", "ignore", "-c", code]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def prepare(folder: Path, trained: Path) -> None:
    """Put what the documentation of prediction names into a folder: run folders, images and annotations."""
    _, json_file, image_root = one_set(trained).sets[0]
    for name in ("output/quick/fcis_R_18_nuclei", "RUN", "OTHER_RUN"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(trained / "output")
    (folder / "images").symlink_to(image_root)
    (folder / "annotations.json").symlink_to(json_file)
    (folder / "plates").mkdir()
    for name in ("image.tif", "plates/a.tif"):
        tifffile.imwrite(folder / name, np.arange(40 * 50, dtype=np.uint16).reshape(40, 50))


def test_commands_of_prediction_run(tmp_path, monkeypatch, run_folder, capsys):
    prepare(tmp_path, run_folder("fcis"))
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "prediction.md").read_text()
    commands = re.findall(r"^tellapart ((?:predict|eval) .*)$", text, re.M)
    assert len(commands) == 5
    for command in commands:
        main(shlex.split(command.replace("nuclei_val", "annotations.json:images"), comments=True))
    printed = capsys.readouterr().out
    assert (tmp_path / "results" / "instances.csv").is_file() and "| PQ " in printed and "difference |" in printed


@pytest.fixture
def label_folder(tmp_path, monkeypatch) -> Path:
    """A folder with ``cells``, images with label images; ``images``; ``more``; and a COCO file of them."""
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path / "cache"))
    cells = tmp_path / "cells"
    cells.mkdir()
    for i in range(6):
        image, objects = draw_shapes(5, i)
        labels = np.zeros(image.shape[:2], np.uint16)
        for number, (_, mask) in enumerate(objects, 1):
            labels[mask] = number
        cv2.imwrite(str(cells / f"{'abcdef'[i]}.png"), image)
        tifffile.imwrite(cells / f"{'abcdef'[i]}_masks.tif", labels)
    (tmp_path / "more").symlink_to(cells)
    (tmp_path / "images").mkdir()
    for name in "ab":
        shutil.copy(cells / f"{name}.png", tmp_path / "images")
    (tmp_path / "annotations.json").write_text(coco_file_of_labels(cells, None).read_text())
    for name in "cdef":
        (tmp_path / "images" / f"{name}.png").symlink_to(cells / f"{name}.png")
    return tmp_path


def test_commands_of_own_data_run(label_folder, monkeypatch, capsys):
    """All of them but those of the figures, in their order, with one iteration and few proposals."""
    monkeypatch.chdir(label_folder)
    text = (ROOT / "docs" / "own-data.md").read_text()
    commands = re.findall(r"^tellapart ((?:show|check|train|predict|report|explain|split) .*)$", text, re.M)
    commands = [command for command in commands if not re.search("[.][.]/shared|shapes", command)]  # of minutes
    assert len(commands) == 9
    before = set(DatasetCatalog.list())
    few = ["SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "1", "DATALOADER.NUM_WORKERS", "0", "SEED", "1"]
    few += ["MODEL.RPN.POST_NMS_TOPK_TEST", "20", "TEST.DETECTIONS_PER_IMAGE", "10"]
    for command in commands:
        words = shlex.split(command, comments=True)
        if words[0] == "check":
            with pytest.raises(SystemExit, match="0"):
                main(words)
            continue
        low = ["--threshold", "0.0"] if words[0] in ("predict", "explain") else []
        main([*words, *(few if words[0] == "train" else low)])
        for name in set(DatasetCatalog.list()) - before:  # each command is a process of its own
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    for path in ("cells_labels.png", "results/images.csv", "output/cells_fcis/report.html", "a_explained.html",
                 "output/mine/model_final.pth", "output/more/model_final.pth"):  # fmt: skip
        assert (label_folder / path).is_file(), path


def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(ROOT / "docs" / "own-data.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    options = {"timeout": 900, "kernel_name": "python3", "resources": {"metadata": {"path": str(tmp_path)}}}
    paths = [str(ROOT / "projects"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TELLAPART_CACHE": str(tmp_path / "cache")}
    NotebookClient(notebook, **options).execute(env=environment)
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "method: fcis" in printed and "image,width,height,instances,error" in printed
    assert "wrote report.html" in printed and "wrote explained.html" in printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_named_files_exist(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    paths = re.findall(r"\b((?:configs|tools|datasets|projects)/[\w/.-]+\.(?:yaml|py))", text)
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_every_config_is_listed():
    """docs/configs.md names every config file, with {a,b} for alternatives and * for all files of a folder."""
    named: set[str] = set()
    for cell in re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "configs.md").read_text(), re.M):
        folder = ""
        for name in re.findall(r"`([^`]+)`", cell):
            folder = name.rpartition("/")[0] or folder
            options = re.search(r"\{(.*?)\}", name)
            for option in options[1].split(",") if options else [""]:
                pattern = re.sub(r"\{.*?\}", option, name.rpartition("/")[2])
                found = {path.stem for path in (ROOT / "configs" / folder).glob(f"{pattern}.yaml")}
                assert found, f"{folder}/{pattern} is listed but does not exist"
                named |= found
    configs = {path.stem for path in (ROOT / "configs").rglob("*.yaml") if not path.name.startswith("Base-")}
    assert configs - named == set()
