"""``tellapart train --train DATA``: from data to a run folder in one command, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tellapart.engine.model_info import ModelInfo
from tellapart.inference.run_folder import find_model
from tellapart_cli import main

import pytest
import tifffile
import torch
import yaml
from pycocotools import mask as coco_mask
from torch.utils.tensorboard import SummaryWriter

pytestmark = pytest.mark.usefixtures("own_catalogs")
ROOT = Path(__file__).resolve().parents[2]
SHORT = ["SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "1", "SOLVER.IMS_PER_BATCH", "1", "DATALOADER.NUM_WORKERS", "0",
         "INPUT.MIN_SIZE_TRAIN", "[64, 64]", "INPUT.MIN_SIZE_TEST", "64"]  # fmt: skip


@pytest.fixture
def label_folder(tiny_set, tmp_path) -> Path:
    """The images of ``tiny_set`` with label images, in Cellpose's layout."""
    content, folder = json.loads(tiny_set[0].read_text()), tmp_path / "cells"
    folder.mkdir()
    for image in content["images"]:
        (folder / image["file_name"]).symlink_to(tiny_set[1] / image["file_name"])
        masks = [coco_mask.decode(a["segmentation"]) for a in content["annotations"] if a["image_id"] == image["id"]]
        labels = sum(mask.astype("uint16") * (i + 1) * (masks[0] + masks[-1] < 2) for i, mask in enumerate(masks))
        tifffile.imwrite(folder / f"{Path(image['file_name']).stem}_masks.tif", labels)
    return folder


def fail(*arguments: str, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["train", *arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_a_folder_of_label_images(label_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["train", "--train", "cells", *SHORT])
    printed = capsys.readouterr().out
    run = tmp_path / "output" / "cells_fcis"
    assert "training: cells_train, 6 images" in printed and "validation: cells_val, 2 images" in printed
    assert "method: fcis, because" in printed and "held out" in printed
    assert "2 iterations of 1 images" in printed and "SOLVER.MAX_ITER: 2 (given)" in printed
    assert "Validation after iteration 1: mask AP" in printed and "tellapart report output/cells_fcis" in printed
    assert "Running with full config" not in printed and "DONE (t=" not in printed
    assert "Running with full config" in (run / "log.txt").read_text()
    content = yaml.safe_load((run / "train.yaml").read_text())
    assert Path(content["_BASE_"]).name == "fcis_R_18_nuclei.yaml"
    assert content["DATASETS"] == {"TRAIN": ["cells_train"], "TEST": ["cells_val"]}
    info = ModelInfo.read(run)
    assert info.weights in ("model_best.pth", "model_final.pth") and info.classes == ["object"]
    assert info.base_config.endswith("fcis_R_18_nuclei.yaml") and Path(info.datasets["cells_val"][0]).is_file()
    cfg, _ = find_model(run)
    assert str(run / info.weights) == cfg.MODEL.WEIGHTS
    assert (run / "model_best.pth").is_file() and not (run / "last_checkpoint").read_text().startswith("model_best")
    refused = fail("--train", str(label_folder), "--method", "fcis", "--output", str(run), capsys=capsys)
    assert "has a run already: --resume goes on with it" in refused


def test_semiconv_and_a_start_from_weights(tiny_set, tmp_path, capsys):
    data = f"{tiny_set[0]}:{tiny_set[1]}"
    run = tmp_path / "run"
    command = ["train", "--train", f"mine={data}", "--val", f"same={data}", "--output", str(run), *SHORT]
    main([*command[:5], "--method", "semiconv", *command[5:]])
    assert f"{run / 'train.yaml'}, from quick/semiconv/" in capsys.readouterr().out
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["MODEL"]["ROI_HEADS"]["NAME"] == "SemiConvROIHeads" and config["MODEL"]["WEIGHTS"] == ""
    assert config["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == 2
    # From the trained model to two other categories; its own config is the base.
    other = ["train", "--register", f"third={data}", "--train", "third", "--val", f"fourth={data}", "--init", str(run)]
    main([*other, "--output", str(tmp_path / "tuned"), *SHORT])
    tuned = yaml.safe_load((tmp_path / "tuned" / "train.yaml").read_text())
    assert tuned["_BASE_"] == str(run / "config.yaml") and tuned["MODEL"]["WEIGHTS"].startswith(str(run))
    refused = fail("--train", data, "--init", str(run), "--method", "fcis", capsys=capsys)
    assert "is a model of the method semiconv, not fcis" in refused


def test_operators_are_added_to_a_mask_rcnn(tiny_set, tmp_path):
    data, short = f"{tiny_set[0]}:{tiny_set[1]}", [*SHORT, "SOLVER.MAX_ITER", "1"]
    first, second = tmp_path / "first", tmp_path / "second"
    main(["train", "--train", f"mask={data}", "--method", "maskrcnn", "--output", str(first), *short])
    more = ["--train", f"semi={data}", "--method", "semiconv", "--init", str(first), "--output", str(second)]
    main(["train", *more, *short])
    before, after = (torch.load(f / "model_final.pth", weights_only=True)["model"] for f in (first, second))
    name = "backbone.bottom_up.stem.conv1.weight"
    assert torch.allclose(before[name], after[name], atol=0.01)
    assert any("predictor" in name for name in after.keys() - before.keys())


@pytest.mark.parametrize("flags, message", [
    (["--train", "DATA", "--config-file", "a.yaml"], "leave out --config-file"),
    (["--train", "DATA", "--eval-only"], "tellapart eval --model RUN"),
    (["--train", "mine=DATA", "--val", "mine"], "are the same data set, mine"),
    (["--train", "nowhere"], "there is no file nowhere"),
    (["--train", "DATA", "--init", "nowhere"], "no trained model is named nowhere"),
    (["--val", "DATA"], "--val needs --train"),
    (["--method", "fcis"], "--method needs --train"),
])  # fmt: skip
def test_flags_that_contradict_each_other(flags, message, tiny_set, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = f"{tiny_set[0]}:{tiny_set[1]}"
    assert message in fail(*(flag.replace("DATA", data) for flag in flags), capsys=capsys)
    assert not (tmp_path / "output").exists()


def test_boxes_need_no_masks(tiny_set, tmp_path, capsys):
    content = json.loads(tiny_set[0].read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    data = f"{tmp_path / 'boxes.json'}:{tiny_set[1]}"
    assert "has no masks, which --method fcis needs" in fail("--train", data, "--method", "fcis", capsys=capsys)
    main(["train", "--train", data, "--output", str(tmp_path / "run"), *SHORT])
    assert "method: maskrcnn, because there are no masks" in capsys.readouterr().out
    assert "box AP" in (tmp_path / "run" / "log.txt").read_text()


def test_validation_pictures_are_in_tensorboard(label_folder, tmp_path, monkeypatch):
    added = []
    monkeypatch.setattr(SummaryWriter, "add_image", lambda self, *args, **kwargs: added.append((args, kwargs)))
    main(["train", "--train", str(label_folder), "--output", str(tmp_path / "run"), *SHORT])
    assert [args[0] for args, _ in added] == ["validation/cells_val"] * 2 and [args[2] for args, _ in added] == [1, 2]
    assert added[0][0][1].ndim == 3 and added[0][1] == {"dataformats": "HWC"}


def test_evaluation_in_between_does_not_change_the_training(tiny_set, tiny_config, tmp_path, forget):
    """The quick configs evaluate every 200 iterations: the weights are those of a training without."""
    weights = []
    for period in ("0", "1"):
        flags = ["--config-file", str(tiny_config("mine")), "--register", f"mine={tiny_set[0]}:{tiny_set[1]}"]
        main(["train", *flags, "SEED", "3", "SOLVER.MAX_ITER", "3", "TEST.EVAL_PERIOD", period])
        weights.append(torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)["model"])
        forget("mine")
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert (tmp_path / "output" / "model_best.pth").is_file()


def test_two_processes(label_folder, tmp_path):
    """Both train, on the same held-out split; the first one prints what will be done, and writes the best weights."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--standalone",
        "-m",
        "tellapart",
    ]
    more = [word if word != "1" or SHORT[i - 1] != "SOLVER.IMS_PER_BATCH" else "2" for i, word in enumerate(SHORT)]
    command += ["train", "--train", str(label_folder), "--output", str(tmp_path / "run"), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("method: fcis, because") == 1
    assert (tmp_path / "run" / "model_best.pth").is_file() and (tmp_path / "run" / "model_final.pth").is_file()
    assert ModelInfo.read(tmp_path / "run").score_threshold is not None
