"""How well an instance coloring separates the instances of an image."""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data.annotations import decode_gt_masks
from ..data.reader import read_dataset
from ..errors import InputError

logger = logging.getLogger(__name__)


class ColoringEvaluator(DatasetEvaluator):
    """Compute the adjusted Rand index (ARI) and the coverage of predicted instances, as means over images.

    Both look at the pixels that belong to exactly one ground-truth instance:

    - ``ARI``, in percent: adjusted Rand index between the predicted and the ground-truth instances, over those pixels
      that a prediction covers. 0 is chance, 100 is the same partition, in whatever order the instances come.
    - ``covered``, in percent: the share of those pixels that a prediction covers.
    - ``images``: number of images in the means. Images with fewer than two ground-truth instances, crowds excluded, are
      left out, because they do not show whether instances are separated.

    Args:
        dataset_name: a registered data set, whose dicts have ``annotations`` and ``image_id``.
        output_dir: not used. It is accepted because all evaluators are built with it.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None) -> None:
        self.dataset_name = dataset_name
        self._records = {record["image_id"]: record for record in read_dataset(dataset_name).records}
        self.reset()

    def reset(self) -> None:
        """Forget all processed images."""
        self._figures: dict[int, tuple[float, float]] = {}  # ARI and coverage by image id

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Evaluate the predictions of a batch. A later prediction of an image replaces an earlier one.

        Args:
            inputs: per image a dict with ``image_id``.
            outputs: per image a dict with ``instances``, which have ``pred_masks``, bool (N, H, W).

        Raises:
            InputError: the data set has no such image, or the masks do not have the image's size.
        """
        for image_input, output in zip(inputs, outputs):
            image_id = image_input["image_id"]
            if image_id not in self._records:
                raise InputError(
                    f"image {image_id} is not in the data set {self.dataset_name}: evaluate on the inputs' data set"
                )
            record = self._records[image_id]
            image_size = record["height"], record["width"]
            pred_masks = output["instances"].pred_masks.cpu().numpy()
            if pred_masks.shape[1:] != image_size:
                raise InputError(
                    f"image {image_id}: masks have size {pred_masks.shape[1:]}, expected the image's size {image_size}"
                )
            gt_masks = decode_gt_masks(record)
            if len(gt_masks) >= 2:
                self._figures[image_id] = adjusted_rand_index(pred_masks, gt_masks)

    def evaluate(self) -> OrderedDict | None:
        """Average over the images of all processes.

        Returns:
            ``OrderedDict(coloring={"ARI": ..., "covered": ..., "images": ...})`` in the main process, nan for no image,
            and None in the others.
        """
        figures_per_process = comm.gather(self._figures, dst=0)
        if not comm.is_main_process():
            return None
        figures = dict(itertools.chain.from_iterable(part.items() for part in figures_per_process))
        index, coverage = np.mean(list(figures.values()), axis=0) if figures else (np.nan, np.nan)
        return OrderedDict(
            coloring={"ARI": 100 * float(index), "covered": 100 * float(coverage), "images": len(figures)}
        )


def adjusted_rand_index(pred_masks: np.ndarray, gt_masks: np.ndarray) -> tuple[float, float]:
    """Compute the adjusted Rand index and the coverage of one image, see :class:`ColoringEvaluator`.

    Args:
        pred_masks: bool (N, H, W). Where masks overlap, the first one counts.
        gt_masks: bool (M, H, W).

    Returns:
        The index, from -0.5 to 1, and the coverage, from 0 to 1. Both are 0 if no pixel is covered.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.metrics import adjusted_rand_score
    except ImportError as error:
        raise InputError("the coloring evaluator needs scikit-learn: pip install scikit-learn") from error
    in_one_instance = gt_masks.sum(0) == 1
    compared = in_one_instance & pred_masks.any(0)
    if not compared.any():
        return 0.0, 0.0
    index = adjusted_rand_score(gt_masks.argmax(0)[compared], pred_masks.argmax(0)[compared])
    return float(index), float(compared.sum() / in_one_instance.sum())
