"""How well the colours of an image's pixels tell its instances apart."""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data.annotations import decode_gt_masks
from ..errors import InputError

logger = logging.getLogger(__name__)


class ColoringEvaluator(DatasetEvaluator):
    """``OrderedDict(coloring={"ARI": ..., "covered": ..., "images": ...})``: means in percent over so many images.

    ARI is the adjusted Rand index between predicted and true instances over the pixels that a prediction covers and
    that belong to exactly one true instance: 0 is chance, 100 the same partition whatever the order of the colours. It
    says how well instances are told apart; what was found at all is ``covered``, the predictions' share of the pixels
    of exactly one true instance. Images of fewer than two true instances say nothing about that, and are left out.

    Args:
        dataset_name: of a registered data set, whose dicts have ``annotations`` and ``image_id``.
        output_dir: not used: there is nothing to keep but the number.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None) -> None:
        self.dataset_name = dataset_name
        self._truth = {record["image_id"]: record for record in DatasetCatalog.get(dataset_name)}
        self.reset()

    def reset(self) -> None:
        """Forget what was processed."""
        self._found: dict[int, tuple[float, float]] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Takes ``image_id`` of the inputs and ``instances`` with ``pred_masks`` bool (N, H, W) of the outputs.

        Raises:
            InputError: an image that the data set does not have, or masks of another size than the image's.
        """
        for one, output in zip(inputs, outputs):
            if one["image_id"] not in self._truth:
                raise InputError(f"image {one['image_id']} is not in the data set {self.dataset_name}")
            record = self._truth[one["image_id"]]
            size = record["height"], record["width"]
            masks = output["instances"].pred_masks.cpu().numpy()
            if masks.shape[1:] != size:
                raise InputError(f"image {one['image_id']}: masks {masks.shape[1:]}, wanted {size}, the image's size")
            truth = decode_gt_masks(record)
            if len(truth) >= 2:
                self._found[one["image_id"]] = adjusted_rand_index(masks, truth)

    def evaluate(self) -> OrderedDict | None:
        """The mean, on the main process; None elsewhere."""
        gathered = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return None
        found = dict(itertools.chain.from_iterable(part.items() for part in gathered))
        index, covered = np.mean(list(found.values()), axis=0) if found else (np.nan, np.nan)
        return OrderedDict(coloring={"ARI": 100 * float(index), "covered": 100 * float(covered), "images": len(found)})


def adjusted_rand_index(masks: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Of predicted bool masks (N, H, W) and true ones (M, H, W), and the share of pixels it is over; see the evaluator.
    Where predictions overlap, the first one counts. 0 where nothing is covered."""
    try:
        from sklearn.metrics import adjusted_rand_score
    except ImportError as error:
        raise InputError("the coloring evaluator needs scikit-learn: pip install scikit-learn") from error
    alone = truth.sum(0) == 1
    counted = alone & masks.any(0)
    if not counted.any():
        return 0.0, 0.0
    index = adjusted_rand_score(truth.argmax(0)[counted], masks.argmax(0)[counted])
    return float(index), float(counted.sum() / alone.sum())
