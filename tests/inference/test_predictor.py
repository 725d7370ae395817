"""The predictor: the results of --eval-only for every kind of model, from files and from arrays."""

from __future__ import annotations

import json
from pathlib import Path

import tellapart
from tellapart import InputError, Predictor
from tellapart.inference.folder import coco_results
from tellapart.inference.image_model import to_detections
from tellapart.inference.mask_crops import MaskCrops

import cv2
import numpy as np
import pytest
from robustness import run as robustness
from robustness.case import Case, Trains, one_set
from robustness.coco_set import write_set

SEEDS = ["MODEL.COLORING.CLUSTERING", "seeds"]  # k-means needs the number of instances


def evaluated(folder: Path, model: str) -> dict[str, list[dict]]:
    """Return the COCO results of --eval-only by file name, in the order of the results file."""
    robustness.forget_sets()
    inputs = one_set(folder)
    case = Case("eval", lambda _: None, Trains(None), flags=["--eval-only"])
    words = robustness.arguments(case, inputs, folder, model, folder / "output" / "model_final.pth")
    words[words.index("OUTPUT_DIR") + 1] = str(folder / "evaluation")
    words += SEEDS
    outcome = robustness.run_here(words)
    robustness.forget_sets()
    assert outcome.code == 0, outcome.output
    results = json.loads((folder / "evaluation" / "inference" / "coco_instances_results.json").read_text())
    images = json.loads(Path(inputs.sets[0][1]).read_text())["images"]
    return {one["file_name"]: [r for r in results if r["image_id"] == one["id"]] for one in images}


@pytest.mark.parametrize("model", robustness.ALL_MODELS)
def test_instances_are_those_of_eval_only(run_folder, model):
    folder = run_folder(model)
    expected = evaluated(folder, model)
    predictor = Predictor(folder / "output", threshold=0.0, opts=SEEDS)
    image_root = Path(one_set(folder).sets[0][2])
    assert sum(map(len, expected.values())) > 0 or model == "coloring"
    for file_name, results in expected.items():
        found = coco_results(to_detections(predictor(image_root / file_name)))
        assert [(r["score"], r["bbox"], r["segmentation"]) for r in found] == [
            (r["score"], r["bbox"], r["segmentation"]) for r in results
        ]


@pytest.fixture
def predictor(run_folder) -> Predictor:
    return Predictor(run_folder("mask_rcnn") / "output", threshold=0.0)


def test_a_file_and_its_array_give_the_same_instances(run_folder, predictor):
    path = next(Path(one_set(run_folder("mask_rcnn")).sets[0][2]).glob("*.png"))
    from_file, from_array = predictor(path), predictor(cv2.imread(str(path)))
    assert len(from_file) and from_file.scores.tolist() == from_array.scores.tolist()


@pytest.mark.parametrize("image", [
    np.zeros((40, 50), np.uint8), np.zeros((40, 50), np.uint16), np.ones((40, 50, 3), np.float32),
    np.zeros((1, 1, 3), np.uint8), np.zeros((40, 50, 4), np.uint8),
])  # fmt: skip
def test_arrays_of_any_depth_are_predicted(predictor, image):
    assert predictor(image).image_size == image.shape[:2]


@pytest.mark.parametrize("image", [None, np.zeros(5), np.zeros((0, 5, 3), np.uint8), np.zeros((5, 5, 7), np.uint8)])
def test_what_is_no_image_is_refused_in_one_sentence(predictor, image):
    with pytest.raises(InputError, match="expected"):
        predictor(image)


def test_the_threshold_is_that_of_the_training(run_folder, tmp_path):
    folder = run_folder("mask_rcnn") / "output"
    assert Predictor(folder).threshold == 0.5
    info = json.loads((folder / "model_info.json").read_text())
    for name in ("config.yaml", "model_final.pth"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "model_info.json").write_text(json.dumps({**info, "score_threshold": 0.31, "threshold_from": "val"}))
    predictor = Predictor(tmp_path)
    assert predictor.threshold == 0.31 and "val" in predictor.summary()
    assert predictor.class_names == info["classes"]


def test_tiles_return_masks_as_crops_that_other_tools_can_read(run_folder):
    predictor = Predictor(run_folder("mask_rcnn") / "output", threshold=0.0, tile=64)
    instances = predictor(np.random.default_rng(0).integers(0, 255, (150, 170, 3), np.uint8))
    assert isinstance(instances.pred_masks, MaskCrops) and len(instances) > 0
    assert np.asarray(instances.pred_masks).shape == (len(instances), 150, 170)
    supervision = pytest.importorskip("supervision")
    detections = supervision.Detections.from_detectron2({"instances": instances})
    assert len(detections) == len(instances) and detections.mask.shape[1:] == (150, 170)


def test_one_tile_is_the_whole_image_bit_by_bit(run_folder):
    folder = run_folder("fcis") / "output"
    image = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    whole = Predictor(folder, threshold=0.0, tile="off")(image)
    tiled = Predictor(folder, threshold=0.0, tile=64)(image)
    assert whole.scores.tolist() == tiled.scores.tolist() and bool((whole.pred_masks == tiled.pred_masks).all())


def test_models_that_do_not_exist(tmp_path, monkeypatch, run_folder):
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="no trained model is named nuclei"):
        Predictor.from_zoo("nuclei")
    with pytest.raises(InputError, match="no config.yaml"):
        Predictor(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        Predictor(tmp_path / "nothing")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "cells").symlink_to(run_folder("fcis") / "output")
    assert Predictor.from_zoo("cells").class_names
    assert tellapart.Predictor is Predictor


def test_thresholds_are_scores(run_folder):
    with pytest.raises(InputError, match="from 0 to 1"):
        Predictor(run_folder("fcis") / "output", threshold=50)


def test_k_means_needs_the_number_of_instances(run_folder):
    with pytest.raises(InputError, match="kmeans"):
        Predictor(run_folder("coloring") / "output", opts=["MODEL.COLORING.CLUSTERING", "kmeans"])


def test_training_keeps_the_threshold_of_its_validation_set(tmp_path):
    robustness.forget_sets()
    write_set(tmp_path)
    words = robustness.arguments(Case("t", lambda _: None, Trains(None)), one_set(tmp_path), tmp_path, "fcis", None)
    outcome = robustness.run_here([*words, "TEST.EVALUATORS", "['coco', 'instances']"])
    robustness.forget_sets()
    assert outcome.code == 0, outcome.output
    info = json.loads((tmp_path / "output" / "model_info.json").read_text())
    assert 0 <= info["score_threshold"] <= 1 and info["threshold_from"] == "mine"
    assert info["classes"] and 0 < info["scale_low"] <= info["scale"] and info["object_size"] > 0
    assert Predictor(tmp_path / "output").threshold == info["score_threshold"]
