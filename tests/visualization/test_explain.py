"""``tellapart explain``: every kind of model has its pictures, and the page loads nothing."""

from __future__ import annotations

from tellapart.inference.predictor import Predictor
from tellapart.visualization.explain import _candidates, _voters, write_explanation
from tellapart_cli import main

import cv2
import numpy as np
import pytest
import torch
from browser import check_alone, check_in_browser, needs_browser
from robustness.run import one_set

PARTS = {
    "fcis": ["Score maps", "Assembled scores", "Mask voting"],
    "instance_fcn": ["Score maps", "Window"],
    "semiconv": ["Embeddings", "Seed, kernel and mask"],
    "coloring": ["Embeddings"],
    "mask_rcnn": ["no position-sensitive maps and no embeddings"],
}


def first_image(folder) -> str:
    return str(next(path for path in sorted(one_set(folder).sets[0][2].iterdir()) if path.suffix == ".png"))


@pytest.mark.parametrize("model", PARTS)
def test_pages_of_all_models(model, run_folder, tmp_path, capsys):
    folder = run_folder(model)
    page = tmp_path / "page.html"
    command = ["explain", first_image(folder), "--model", str(folder / "output"), "--output", str(page)]
    more = ["--opts", "MODEL.COLORING.CLUSTERING", "seeds"] if model == "coloring" else []
    main([*command, "--threshold", "0.0", "--instance", "1", *more])
    assert "instance 1 of " in capsys.readouterr().out
    text = page.read_text()
    assert all(part in text for part in PARTS[model])
    check_alone(text)
    assert text.count("<img ") >= (1 if model == "mask_rcnn" else 3) and page.stat().st_size < 5_000_000
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--threshold", "0.0", "--instance", "9999", *more])
    assert stopped.value.code == 2 and "--instance is 9999, but" in capsys.readouterr().err


def test_an_image_without_instances_and_a_broken_one(run_folder, tmp_path, capsys):
    folder = run_folder("fcis")
    page = tmp_path / "page.html"
    command = ["explain", first_image(folder), "--model", str(folder / "output"), "--output", str(page)]
    main([*command, "--threshold", "1.0"])
    assert "no instance has a score of at least 1; --threshold lowers it" in capsys.readouterr().out
    assert "No instance reaches the threshold" in page.read_text()
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(SystemExit) as stopped:
        main(["explain", str(tmp_path / "a.png"), "--model", str(folder / "output")])
    assert stopped.value.code == 2 and "a.png" in capsys.readouterr().err


def test_the_votes_give_the_mask(run_folder):
    """The drawn average of the voters, at the threshold, is the mask that the model predicts in its input's pixels."""
    folder = run_folder("fcis")
    predictor = Predictor(folder / "output", threshold=0.0, tile="off")
    inputs = predictor.model_input(predictor.open(first_image(folder)))
    inputs["height"], inputs["width"] = inputs["image"].shape[1:]
    with torch.no_grad():
        found = predictor.model([inputs])[0]["instances"]
    candidates = _candidates(predictor.model, inputs)
    category, score = int(found.pred_classes[0]), float(found.scores[0])
    index = int((candidates.class_probs[:, category] - score).abs().argmin())
    assert candidates.class_probs[index, category] == score
    number, panels = _voters(predictor.model, candidates, index, category, inputs)
    assert number >= 1 and len(panels) == 3
    red = np.abs(panels[2].astype(int) - cv2.cvtColor(cv2.cvtColor(panels[2], cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR))
    assert (red.max(2) > 40).any()  # the mask is drawn


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(run_folder, tmp_path, width):
    folder = run_folder("fcis")
    page = tmp_path / "page.html"
    write_explanation(Predictor(folder / "output", threshold=0.0, tile="off"), first_image(folder), page)
    check_in_browser(page, tmp_path, width)
