"""tools/dots.py: both runs, the last line, the picture; the colours of the picture."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from tellapart import InputError
from tellapart.data import register_coco_folder
from tellapart.data.synthetic.dots import DOTS
from tellapart.engine import job_runner
from tellapart.engine.config_checks import load_config
from tellapart.visualization.cluster_pictures import match_colors, write_colorings
from tellapart.visualization.drawing import BAR, GAP

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
    assert picture.shape == (2 * (BAR + TILE + GAP), 4 * (TILE + 2 * GAP), 3)
    image = cv2.imread(str(tmp_path / "dots_val_v1" / "images" / "00001.png"))
    shown = picture[BAR + TILE + GAP :][BAR : BAR + TILE, GAP : GAP + TILE]
    assert np.array_equal(shown, image.repeat(2, 0).repeat(2, 1))


def test_a_run_that_fails_is_named(tmp_path, monkeypatch, run_tool):
    (tmp_path / "stub.py").write_text("import sys; sys.exit(3)")
    monkeypatch.setattr(job_runner, "TRAIN_COMMAND", [sys.executable, str(tmp_path / "stub.py")])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # put back what the tool changes
    printed = run_tool("dots.py", "--output", str(tmp_path / "out"))
    assert "coloring_dots" in printed and ".yaml with seed 1 failed (exit 3): see " in printed
    with pytest.raises(InputError, match="exit 3"):
        job_runner.train(tmp_path / "a.yaml", tmp_path / "a", 1, [], ["coloring/ARI"])


def labelled(labels: list[str]) -> np.ndarray:
    """Masks of an image of these letters, in their order."""
    pixels = np.array([list(row) for row in labels])
    return np.array([pixels == k for k in "abcd" if (pixels == k).any()])


def test_colors_by_most_shared_pixels():
    """Each colour once; who shares none gets one of its own."""
    truth = labelled(["aaabbb", "aaabbb", "......"])
    found = labelled(["bbbbcc", "bba.cc", "dd...."])  # a: 1 of the first; b: 5 of it, 1 of the second; c: 4 of that
    assert match_colors(found, truth) == [2, 0, 1, 3]
    assert match_colors(found[::-1], truth) == [2, 1, 0, 3]
    assert match_colors(found[:0], truth) == [] and match_colors(found[:2], truth[:0]) == [0, 1]


def test_right_predictions_look_like_the_truth(tmp_path):
    """In another order too; an uncoloured pixel stays a darker image."""
    truth = labelled(["aabb", "aabb", "....", "cc.."])
    image = np.full((4, 4, 3), 200, np.uint8)
    tiles = [("image", None), ("truth", truth), ("same", truth[[2, 0, 1]]), ("none", truth[:0])]
    write_colorings(tmp_path / "new" / "a.png", [(image, tiles), (image, tiles[1:2])])
    picture = cv2.imread(str(tmp_path / "new" / "a.png"))
    panels = [picture[BAR : BAR + TILE, x : x + TILE] for x in range(GAP, picture.shape[1], TILE + 2 * GAP)]
    assert len(panels) == 4 and picture.shape[0] == 2 * (BAR + TILE + GAP)
    assert (panels[0] == 200).all() and (panels[3] == 50).all() and np.array_equal(panels[1], panels[2])
    cells = panels[1][32::64, 32::64]
    assert len({tuple(cells[y, x]) for y, x in ((0, 0), (0, 2), (3, 0), (2, 0))}) == 4
    assert (cells[2] == 50).all() and np.array_equal(cells[1, 0], cells[0, 1])
