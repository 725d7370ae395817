"""Intervals of measures by bootstrap over images, and the paired comparison of two models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.cocoeval import COCOeval

from .instance_matching import Counts, measures

NUM_RESAMPLES = 1000
_LEVEL = 95.0  # percent


@dataclass(frozen=True)
class Interval:
    """A measure of all images and the ends of its interval, in the same unit."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, resampled: np.ndarray) -> Interval:
        """Return the interval between the percentiles of the resampled values; nan are left out."""
        finite = resampled[np.isfinite(resampled)]
        if not len(finite):
            return cls(value, float("nan"), float("nan"))
        tail = (100.0 - _LEVEL) / 2
        return cls(value, *(float(end) for end in np.percentile(finite, [tail, 100.0 - tail])))


def resample_weights(num_images: int, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> np.ndarray:
    """Return how often each image is drawn in each resample, int (num_resamples, num_images)."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_images, np.full(num_images, 1.0 / max(num_images, 1)), size=num_resamples)


def instance_measures(counts: Sequence[Counts], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the measures of ``InstanceEvaluator`` of resampled images.

    Args:
        counts: of N images.
        weights: (R, N), see :func:`resample_weights`.

    Returns:
        (R,) each, in percent: F1, precision, recall, accuracy, mF1, PQ, AJI; as numbers: count_error, count_bias.
    """
    weights = np.asarray(weights, dtype=np.float64)
    of_data = measures(weights @ np.stack([one.vector() for one in counts]))
    results = {name: 100 * of_data[name][:, 0] for name in ("F1", "precision", "recall", "accuracy", "PQ")}
    results["mF1"] = 100 * of_data["F1"].mean(1)
    union = np.array([one.aji_union for one in counts])
    jaccard = np.array([one.aji_intersection for one in counts]) / np.where(union > 0, union, 1.0)
    with np.errstate(invalid="ignore"):
        results["AJI"] = 100 * (weights @ (jaccard * (union > 0))) / (weights @ (union > 0).astype(float))
    difference = np.array([one.num_detected - one.num_true for one in counts], dtype=float)
    total = weights.sum(1)
    results["count_error"] = weights @ np.abs(difference) / total
    results["count_bias"] = weights @ difference / total
    return results


class ResampledAP:
    """COCO's average precision of resampled images.

    Args:
        coco_eval: after ``evaluate()``, with the area range "all" first and the number of detections last in its
            parameters, as pycocotools sets them.

    Attributes:
        image_ids: the images, in the order of the weights.
    """

    def __init__(self, coco_eval: COCOeval) -> None:
        params = coco_eval.params
        self.image_ids = list(params.imgIds)
        self._recalls, self._iou = params.recThrs, params.iouThrs
        num_images, num_areas = len(params.imgIds), len(params.areaRng)
        categories = params.catIds if params.useCats else [-1]
        self._categories = []
        for c in range(len(categories)):
            of_images = [coco_eval.evalImgs[c * num_areas * num_images + i] for i in range(num_images)]
            self._categories.append(self._of_category(of_images, params.maxDets[-1]))

    def _of_category(self, of_images: list[dict | None], limit: int) -> tuple[np.ndarray, ...]:
        scores, image_index, matched, ignored = [np.zeros(0)], [np.zeros(0, int)], [], []
        num_true = np.zeros(len(of_images))
        for i, one in enumerate(of_images):
            if one is None:
                continue
            num_true[i] = np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)
            scores.append(np.asarray(one["dtScores"][:limit], dtype=float))
            image_index.append(np.full(len(scores[-1]), i))
            matched.append(one["dtMatches"][:, :limit] != 0)
            ignored.append(one["dtIgnore"][:, :limit] != 0)
        empty = np.zeros((len(self._iou), 0), bool)
        all_scores = np.concatenate(scores)
        order = np.argsort(-all_scores, kind="mergesort")
        joined = [np.concatenate([empty, *parts], axis=1)[:, order] for parts in (matched, ignored)]
        return num_true, np.concatenate(image_index)[order], *joined

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Compute the AP in percent of one resample, at each IoU threshold and averaged over the categories, (T,).

        Args:
            weights: int (N,), how often each image counts.
        """
        valid = [ap for ap in self.per_category(weights) if ap is not None]
        return 100 * np.mean(valid, axis=0) if valid else np.full(len(self._iou), np.nan)

    def per_category(self, weights: np.ndarray) -> list[np.ndarray | None]:
        """Compute the AP of each category as a fraction, (T,); None without true instances. See :meth:`__call__`."""
        return [self._average_precision(*parts, weights) for parts in self._categories]

    def _average_precision(
        self,
        num_true: np.ndarray,
        image_index: np.ndarray,
        matched: np.ndarray,
        ignored: np.ndarray,
        weights: np.ndarray,
    ) -> np.ndarray | None:
        total = float(num_true @ weights)
        if not total:
            return None
        of_detections = weights[image_index].astype(float)
        tp = ((matched & ~ignored) * of_detections).cumsum(1)
        fp = ((~matched & ~ignored) * of_detections).cumsum(1)
        recall, precision = tp / total, tp / (tp + fp + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        padded = np.concatenate((precision, np.zeros((len(precision), 1))), axis=1)
        at = [np.searchsorted(row, self._recalls, side="left") for row in recall]
        return np.array([row[index].mean() for row, index in zip(padded, at)])


def ap_measures(resampled: ResampledAP, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return AP, AP50 and AP75 of resampled images in percent, (R,) each; ``weights`` is (R, N)."""
    values = np.stack([resampled(row) for row in weights])
    return {"AP": values.mean(1), "AP50": values[:, 0], "AP75": values[:, 5]}


def intervals(of_all: dict[str, np.ndarray], of_resamples: dict[str, np.ndarray]) -> dict[str, Interval]:
    """Return the interval of each measure, from its value on all images (1,) and on resamples (R,)."""
    return {name: Interval.of(float(of_all[name][0]), values) for name, values in of_resamples.items()}


def differences(
    first: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
    second: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
) -> dict[str, Interval]:
    """Return the interval of second minus first for two models on the same images and resamples (paired).

    Args:
        first, second: per model the measures of all images (1,) and of the resamples (R,), by name.
    """
    return {
        name: Interval.of(float((second[0][name] - first[0][name])[0]), second[1][name] - first[1][name])
        for name in first[0]
    }
