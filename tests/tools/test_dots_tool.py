"""tools/dots.py: both runs, the last line, the picture."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from tellapart import InputError
from tellapart.data import register_coco_folder
from tellapart.data.synthetic.dots import DOTS
from tellapart.engine import job_runner
from tellapart.engine.config_checks import load_config
from tellapart.visualization.drawing import CAPTION_HEIGHT, MARGIN

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

NAME = "tellapart_test_dots"
TILE = 256


@pytest.fixture
def opts(tmp_path) -> list[str]:
    """Options for a narrow network, tested on three images of dots."""
    few = dataclasses.replace(DOTS, splits={"val": (20185, 3)})
    register_coco_folder(NAME, *few.ensure("val", tmp_path))
    yield ["DATASETS.TEST", f"('{NAME}',)", "MODEL.SEMICONV.CONV_DIM", "8"]
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove(NAME)


def test_both_runs_the_picture_and_the_last_line(tmp_path, opts, monkeypatch, run_tool):
    """With untrained networks, which differ in nothing but the mixing."""
    started, output = {}, tmp_path / "out"

    def train(config: Path, folder: Path, seed: int, options: list[str], metrics: list[str]) -> dict:
        cfg = load_config(str(config), options)
        folder.mkdir(parents=True)
        torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
        started[folder.name] = (seed, metrics, cfg.dump())
        return {metrics[0]: 3.1449 if "convolutional" in config.name else 99.96}

    monkeypatch.setattr(job_runner, "train", train)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # put back what the tool changes
    given = ("--output", str(output), "--num-images", "2", "--seed", "4")
    lines = run_tool("dots.py", *given, "--opts", *opts).splitlines()
    assert lines[-2:] == [f"wrote {output / 'dots.png'}", "ARI convolutional=0.031 semi-convolutional=1.000"]
    (seed, metrics, semi), (*same, plain) = started["coloring_dots"], started["coloring_dots_convolutional"]
    assert [seed, metrics] == same == [4, ["coloring/ARI"]]
    assert plain.replace("coloring_dots_convolutional", "coloring_dots").replace(
        "MIXING: convolutional", "MIXING: additive"
    ) == semi != plain  # fmt: skip
    picture = cv2.imread(str(output / "dots.png"))
    assert picture.shape == (2 * (CAPTION_HEIGHT + TILE + MARGIN), 4 * (TILE + 2 * MARGIN), 3)
    image = cv2.imread(str(tmp_path / "dots_val_v1" / "images" / "00001.png"))
    shown = picture[CAPTION_HEIGHT + TILE + MARGIN :][CAPTION_HEIGHT : CAPTION_HEIGHT + TILE, MARGIN : MARGIN + TILE]
    assert np.array_equal(shown, image.repeat(2, 0).repeat(2, 1))


def test_a_run_that_fails_is_named(tmp_path, monkeypatch, run_tool):
    (tmp_path / "stub.py").write_text("import sys; sys.exit(3)")
    monkeypatch.setattr(job_runner, "TRAIN_COMMAND", [sys.executable, str(tmp_path / "stub.py")])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # put back what the tool changes
    printed = run_tool("dots.py", "--output", str(tmp_path / "out"))
    assert "coloring_dots" in printed and ".yaml with seed 1 failed (exit 3): see " in printed
    with pytest.raises(InputError, match="exit 3"):
        job_runner.train(tmp_path / "a.yaml", tmp_path / "a", 1, [], ["coloring/ARI"])
