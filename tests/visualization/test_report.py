"""``tellapart report``: the page has every part, loads nothing, and its figures are those of the evaluation."""

from __future__ import annotations

import re
from pathlib import Path

from tellapart.data.data_argument import register_argument
from tellapart.inference.evaluate import evaluate_model
from tellapart.inference.predictor import Predictor
from tellapart.visualization.report import pooled_matches, read_metrics, write_report
from tellapart_cli import main

import numpy as np
import pytest
from browser import check_alone, check_in_browser, needs_browser
from robustness.run import one_set


@pytest.fixture(scope="module")
def page(run_folder, tmp_path_factory) -> tuple[Path, Path]:
    """(page, run folder) of a small FCIS."""
    folder = run_folder("fcis")
    _, json_file, image_root = one_set(folder).sets[0]
    path = tmp_path_factory.mktemp("report") / "report.html"
    main(
        [
            "report",
            str(folder / "output"),
            "--data",
            f"{json_file}:{image_root}",
            "--output",
            str(path),
            "--threshold",
            "0.05",
        ]
    )
    return path, folder / "output"


def test_the_page_has_all_parts(page):
    text = page[0].read_text()
    check_alone(text)
    assert page[0].stat().st_size < 5_000_000
    for part in ("How good it is", "Precision over recall", "F1 over the score threshold", "Number of objects",
                 "What goes wrong", "Images with the lowest F1", "Losses", "Learning rate", "Config"):  # fmt: skip
        assert part in text
    assert text.count("<svg ") >= 5 and text.count("<img ") >= 1
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))  # charts do not share ids, by which SVG finds its markers


def test_the_errors_add_up(page, run_folder):
    folder = run_folder("fcis")
    _, json_file, image_root = one_set(folder).sets[0]
    predictor = Predictor(folder / "output", threshold=0.05)
    evaluation = write_report(predictor, folder / "output", page[0], register_argument(f"{json_file}:{image_root}"))
    table = re.findall(
        r"<tr><td>[a-z ]+</td><td class=\"text\">[^<]+</td><td>(\d+)</td><td>(\d+)</td></tr>", page[0].read_text()
    )
    counts = list(evaluation.counts.values())
    assert sum(int(one) for one, _ in table) == sum(one.fp[0] for one in counts)
    assert sum(int(one) for _, one in table) == sum(one.fn[0] for one in counts)


def test_curves_end_at_the_measures(page, run_folder):
    """With all detections, pooled recall is the number of COCO's matches over the true instances."""
    folder = run_folder("fcis")
    _, json_file, image_root = one_set(folder).sets[0]
    evaluation = evaluate_model(
        Predictor(folder / "output"), register_argument(f"{json_file}:{image_root}"), progress=False
    )
    scores, tp, fp, total = pooled_matches(evaluation.coco_eval, 0)
    matched = sum(int((one["dtMatches"][0] != 0).sum()) for one in evaluation.coco_eval.evalImgs if one)
    assert tp[-1] == matched and len(scores) == tp[-1] + fp[-1]
    assert total == sum(len(record["annotations"]) for record in evaluation.content.records)
    assert (np.diff(scores) <= 0).all()


def test_metrics_of_a_resumed_run(tmp_path):
    lines = [
        '{"iteration": 19, "a": 1}',
        '{"iteration": 39, "a": 2}',
        '{"iteration": 39, "b": 3}',
        '{"iteration": 19, "a": 4}',
        '{"it',
    ]
    (tmp_path / "metrics.json").write_text("\n".join(lines))
    assert read_metrics(tmp_path) == [{"iteration": 19, "a": 4}, {"iteration": 39, "a": 2, "b": 3}]
    assert read_metrics(tmp_path / "nowhere") == []


def test_a_model_without_validation_data(run_folder, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(run_folder("fcis") / "output"), "--opts", "DATASETS.TEST", "()"])
    assert stopped.value.code == 2 and "name annotated images with --data" in capsys.readouterr().err


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(page, tmp_path, width):
    check_in_browser(page[0], tmp_path, width)
