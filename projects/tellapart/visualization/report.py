"""``tellapart report``: one page of what a training did, how good its model is, and what goes wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from markupsafe import Markup
from pycocotools.cocoeval import COCOeval

from ..data.coco_folder import register_coco_folder
from ..data.image_reading import ImageReader
from ..data.statistics import evenly_spread
from ..engine.config_checks import load_config
from ..engine.model_info import ModelInfo
from ..errors import InputError
from ..evaluation import bootstrap
from ..evaluation.error_kinds import CORRECT, KINDS
from ..evaluation.instance_matching import measures
from ..inference.evaluate import Evaluation, evaluate_model, measure_table
from ..inference.predictor import Predictor
from .error_pictures import ImageComparison, compare_image, draw_comparison, legend, summary
from .page import chart, picture, write_page

_NUM_WORST, _NUM_BEST = 9, 3  # images on the page
_MAX_PICTURE_PIXELS = 40_000_000  # larger images are not drawn
_MAX_POINTS = 300  # of a curve
# Keys that say where and not how a model is trained.
_PLACES = ("OUTPUT_DIR", "MODEL.WEIGHTS", "VERSION")


def write_report(
    predictor: Predictor, run_folder: str | Path, path: str | Path, dataset_name: str | None = None
) -> Evaluation:
    """Predict a data set and write the page.

    Args:
        predictor: the model.
        run_folder: the output folder of its training.
        path: of the page.
        dataset_name: a registered data set; None: the first test set of the training.

    Raises:
        InputError: there is no data set, or it cannot be compared with the model.
    """
    name = dataset_name or validation_set(predictor.cfg, predictor.info)
    evaluation = evaluate_model(predictor, name)
    comparisons = [
        compare_image(evaluation.content, record, found, predictor.threshold, predictor.class_agnostic)
        for record, found in zip(evaluation.content.records, evaluation.detections)
    ]
    pictures, num_left_out = _pictures(comparisons, predictor.reader)
    notes = predictor.limits.notes()
    if num_left_out:
        notes.append(f"{num_left_out} images of more than {_MAX_PICTURE_PIXELS / 1e6:.0f} megapixels are not drawn")
    warnings = [*predictor.limits.warnings(), *_leaks(predictor.cfg, name)]
    write_page(
        path, "report.html", title=f"{Path(run_folder).resolve().name} on {name}", summary=predictor.summary(),
        notes=notes, warnings=warnings, run=str(run_folder), data=evaluation.content.where,
        num_images=evaluation.num_images, num_objects=sum(len(one.true_rles) for one in comparisons),
        measures=_rounded(measure_table(evaluation)), errors=_error_table(comparisons), pictures=pictures,
        legend=legend([CORRECT, *KINDS]), curves=_curves(evaluation), counts=_count_chart(comparisons),
        categories=_category_table(evaluation), training=_training_charts(Path(run_folder)),
        changes=_config_changes(predictor.cfg, predictor.info), base=predictor.info.base_config,
    )  # fmt: skip
    return evaluation


def validation_set(cfg: CfgNode, info: ModelInfo) -> str:
    """Register the data sets of a training and return the name of its first test set.

    Raises:
        InputError: there is none, or its file is gone.
    """
    if not cfg.DATASETS.TEST:
        raise InputError("the model was trained without a validation set: name annotated images with --data")
    for name, (json_file, image_root) in info.datasets.items():
        if name not in DatasetCatalog.list():
            register_coco_folder(name, json_file, image_root)
    name = cfg.DATASETS.TEST[0]
    if name not in DatasetCatalog.list():
        raise InputError(f"the validation set {name} of the training is not registered: name its file with --data")
    return name


def _leaks(cfg: CfgNode, name: str) -> list[str]:
    return [f"{name} is a training set of this model: the figures are too good"] if name in cfg.DATASETS.TRAIN else []


def _rounded(table: tuple[list[str], list[list]]) -> tuple[list[str], list[list[str]]]:
    headers, rows = table
    return headers, [[_text(cell) for cell in row] for row in rows]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.1f}"
    return str(value)


# ------------------------------------------------------------------------------------------------- errors, images


def _error_table(comparisons: list[ImageComparison]) -> list[tuple[str, str, int, int]]:
    """Return kind, meaning, number of detections and of true instances."""
    counts = [one.errors.counts() for one in comparisons]
    return [
        (kind, meaning, sum(one[kind][0] for one in counts), sum(one[kind][1] for one in counts))
        for kind, meaning in KINDS.items()
    ]


def _pictures(
    comparisons: list[ImageComparison], reader: ImageReader
) -> tuple[dict[str, list[tuple[str, Markup]]], int]:
    """Return the worst and the best images, as caption and picture, and the number of those that are too large."""
    total = len(comparisons)
    comparisons = [one for one in comparisons if _can_be_drawn(one)]
    order = sorted(range(len(comparisons)), key=lambda i: (comparisons[i].f1, -len(comparisons[i].true_rles)))
    num_worst = min(_NUM_WORST, math.ceil(len(order) / 2))
    best = [i for i in order[num_worst:][::-1] if comparisons[i].true_rles][:_NUM_BEST]
    chosen = {"worst": order[:num_worst], "best": best}
    cards = {title: [_card(comparisons[i], reader) for i in index] for title, index in chosen.items()}
    return cards, total - len(comparisons)


def _can_be_drawn(comparison: ImageComparison) -> bool:
    return comparison.record["height"] * comparison.record["width"] <= _MAX_PICTURE_PIXELS


def _card(comparison: ImageComparison, reader: ImageReader) -> tuple[str, Markup]:
    name = Path(comparison.record["file_name"]).name
    caption = f"{name}: {summary(comparison)}"
    return caption, picture(draw_comparison(reader.picture(comparison.record["file_name"]), comparison), caption)


def _count_chart(comparisons: list[ImageComparison]) -> Markup:
    true, predicted = ([f(one) for one in comparisons] for f in (lambda c: len(c.true_rles), lambda c: c.num_predicted))
    return chart(
        "Number of objects per image", "true", "predicted", {"images": (true, predicted)}, points=True, diagonal=True
    )


# ------------------------------------------------------------------------------------------------- curves, tables


def _curves(evaluation: Evaluation) -> list[Markup]:
    """Return the charts of precision over recall, and of F1 over the score threshold, of all categories together."""
    lines = {}
    for title, index in (("IoU 0.5", 0), ("IoU 0.75", 5)):
        scores, tp, fp, total = pooled_matches(evaluation.coco_eval, index)
        if total and len(scores):
            lines[title] = scores, tp / total, tp / np.maximum(tp + fp, 1), 2 * tp / np.maximum(tp + fp + total, 1)
    if not lines:
        return []
    for title, columns in lines.items():
        shown = evenly_spread(len(columns[0]), _MAX_POINTS)
        lines[title] = tuple(column[shown] for column in columns)
    precision = {title: (recall, precision) for title, (_, recall, precision, _) in lines.items()}
    f1 = {title: (scores, f1) for title, (scores, _, _, f1) in lines.items()}
    return [
        chart("Precision over recall", "recall", "precision", precision, limits=(0, 1.02)),
        chart(
            "F1 over the score threshold", "least score", "F1", f1, limits=(0, 1.02),
            marks={"threshold": evaluation.threshold},
        ),
    ]  # fmt: skip


def pooled_matches(coco_eval: COCOeval, iou_index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return COCO's matches of all images and categories by falling score.

    Args:
        coco_eval: after ``evaluate()``, with one range of areas.
        iou_index: of the threshold in its parameters.

    Returns:
        Scores (D,), the number of true and of false positives with at least that score (D,), and of true instances.
    """
    images = [one for one in coco_eval.evalImgs if one is not None]
    kept = [one["dtIgnore"][iou_index] == 0 for one in images]
    scores = np.concatenate([np.zeros(0), *(np.asarray(one["dtScores"])[k] for one, k in zip(images, kept))])
    is_true = np.concatenate([np.zeros(0), *(one["dtMatches"][iou_index][k] != 0 for one, k in zip(images, kept))])
    order = np.argsort(-scores, kind="stable")
    total = sum(int((np.asarray(one["gtIgnore"]) == 0).sum()) for one in images)
    return scores[order], is_true[order].cumsum(), (1 - is_true[order]).cumsum(), total


def _category_table(evaluation: Evaluation) -> list[list[str]]:
    """Return per category: name, true and predicted instances, AP, F1, precision, recall in percent."""
    resampled = bootstrap.ResampledAP(evaluation.coco_eval)
    average_precisions = resampled.per_category(np.ones(len(resampled.image_ids)))
    rows = []
    for (name, counts), ap in zip(evaluation.category_counts.items(), average_precisions):
        of_category = measures(counts.vector())
        values = [100 * float(of_category[key][0]) for key in ("F1", "precision", "recall")]
        ap_percent = float("nan") if ap is None else 100 * float(ap.mean())
        if counts.num_true or counts.num_detected:
            rows.append([_text(v) for v in (name, counts.num_true, counts.num_detected, ap_percent, *values)])
    return rows


# --------------------------------------------------------------------------------------------- training, config


def read_metrics(run_folder: Path) -> list[dict]:
    """Return the lines of ``metrics.json`` of a run, without broken ones; a resumed run repeats iterations."""
    path = run_folder / "metrics.json"
    if not path.is_file():
        return []
    by_iteration: dict[int, dict] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            content = json.loads(line)
            by_iteration.setdefault(int(content["iteration"]), {}).update(content)
        except (ValueError, KeyError, TypeError):
            continue  # the run was stopped while it wrote the line
    return [by_iteration[i] for i in sorted(by_iteration)]


def _training_charts(run_folder: Path) -> list[Markup]:
    metrics = read_metrics(run_folder)

    def series(key: str) -> tuple[list[int], list[float]]:
        known = [(one["iteration"], one[key]) for one in metrics if math.isfinite(one.get(key, math.nan))]
        return [iteration for iteration, _ in known], [value for _, value in known]

    losses = sorted({key for one in metrics for key in one if key.startswith("loss_")})
    validation = {"mask AP": "segm/AP", "box AP": "bbox/AP", "F1": "instances/F1"}
    charts = []
    for title, y_label, names in (
        ("Losses", "loss", {"total": "total_loss", **{key[5:]: key for key in losses}}),
        ("Validation", "percent", validation), ("Learning rate", "learning rate", {"learning rate": "lr"}),
    ):  # fmt: skip
        lines = {name: series(key) for name, key in names.items()}
        lines = {name: line for name, line in lines.items() if line[0]}
        if lines:
            log = title == "Losses" and all(min(values) > 0 for _, values in lines.values())
            charts.append(chart(title, "iteration", y_label, lines, log=log))
    return charts


def _config_changes(cfg: CfgNode, info: ModelInfo) -> list[tuple[str, str, str]]:
    """Return key, value of the base config and value of the run, where they differ."""
    try:
        base = load_config(info.base_config, ["MODEL.DEVICE", cfg.MODEL.DEVICE])
    except InputError:  # the base is gone: compare with the defaults
        base = load_config("", ["MODEL.DEVICE", cfg.MODEL.DEVICE])
    before, after = _flat(base), _flat(cfg)
    return [
        (key, _value(before.get(key)), _value(value))
        for key, value in after.items()
        if key not in _PLACES and _value(before.get(key)) != _value(value)
    ]


def _flat(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in node.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key: value})
    return flat


def _value(value: Any) -> str:
    return json.dumps(value, default=list)
