"""Average recall of class-agnostic mask proposals, the measure of DeepMask and InstanceFCN."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import convert_to_coco_json
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from ..errors import InputError
from ..files import write_json

logger = logging.getLogger(__name__)
TASK = "mask_proposals"
CATEGORY_ID = 1  # all objects and proposals get the same category, because classes do not count
IOU_THRESHOLDS = Params("segm").iouThrs  # 0.5, 0.55 ... 0.95


class MaskProposalEvaluator(DatasetEvaluator):
    """Compute the average recall (AR) of class-agnostic mask proposals on a data set.

    Proposals are matched with objects by pycocotools, as for COCO's AR with ``useCats = 0``: in the order of decreasing
    score, each proposal takes the unmatched object with the highest IoU. Crowd regions do not count as objects. With L
    the largest of ``limits``, the figures are

    - ``AR@n``, for each limit n: recall with the n best proposals per image, averaged over IoU 0.5, 0.55 ... 0.95;
    - ``ARs@L``, ``ARm@L``, ``ARl@L``: the same for objects with an area up to 32^2 pixels, from 32^2 to 96^2, and from
      96^2;
    - ``AUC`` (as in DeepMask, Pinheiro et al. 2015): area under AR@n over log n from n = 1 to L, by trapezoids between
      all integers n, divided by log L, so that a constant AR is its own AUC. nan if L is 1;
    - ``recall@t``: recall with L proposals at the IoU threshold t.

    They are in percent, nan if there are no objects. All images of the data set count: an image that was not processed
    has no proposals.

    Args:
        dataset_name: a registered data set. If its metadata has no "json_file", the data set is written to
            ``output_dir`` as a COCO file.
        distributed: True to gather the proposals of all processes and evaluate them in the main process, in which case
            all processes must call :meth:`evaluate`. An image that several processes have processed counts once. False
            to evaluate in each process what it has processed.
        output_dir: folder for "mask_proposals_results.json", in COCO's result format with category 1.
        limits: numbers of proposals per image.

    Raises:
        InputError: ``limits`` are not positive integers; the data set has no COCO file and there is no ``output_dir``;
            the file cannot be read, or it has annotations without segmentation or area.
    """

    def __init__(
        self, dataset_name: str, distributed: bool = True, output_dir: str | None = None, *,
        limits: Sequence[int] = (10, 100, 1000),
    ) -> None:  # fmt: skip
        if not limits or any(not isinstance(n, int) or n < 1 for n in limits):
            raise InputError(f"limits are {limits}, expected numbers of proposals: one or more whole numbers above 0")
        self._dataset_name, self._distributed, self._output_dir = dataset_name, distributed, output_dir
        self._limits = sorted(set(limits))
        self._read_ground_truth()
        self.reset()

    def _read_ground_truth(self) -> None:
        """Set ``_images`` and ``_gt_annotations`` by image id. The latter is None if the file has no annotations."""
        metadata = MetadataCatalog.get(self._dataset_name)
        if metadata.get("json_file") is None:
            if not self._output_dir:
                raise InputError(
                    f"Data set {self._dataset_name} has no COCO file: give output_dir, to write the file there"
                )
            path = os.path.join(self._output_dir, f"{self._dataset_name}_coco_format.json")
            convert_to_coco_json(self._dataset_name, path)
            metadata.json_file = path
        path = metadata.json_file
        try:
            content = json.loads(Path(PathManager.get_local_path(path)).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"Data set {self._dataset_name}: {path} can't be read: {error}") from error
        self._images = {image["id"]: image for image in content["images"]}
        self._gt_annotations: dict[int, list[dict]] | None = None
        if "annotations" not in content:
            return
        self._gt_annotations = {image_id: [] for image_id in self._images}
        # pycocotools visits the objects of an image by category, and this order decides between equal IoUs
        for number, annotation in enumerate(sorted(content["annotations"], key=lambda a: a["category_id"]), 1):
            if not annotation.get("segmentation") or "area" not in annotation:
                raise InputError(f"{path}: annotation {annotation['id']} lacks segmentation or area, expected both")
            # numbered anew from 1, because pycocotools treats a match with the object of id 0 as no match
            numbered = {"iscrowd": 0, **annotation, "id": number, "category_id": CATEGORY_ID}
            self._gt_annotations[annotation["image_id"]].append(numbered)

    def reset(self) -> None:
        """Forget all proposals."""
        # by image id: scores in decreasing order and RLE counts
        self._proposals: dict[int, tuple[np.ndarray, list[bytes]]] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Add the proposals of a batch. If an image was processed before, its first proposals are kept.

        Args:
            inputs: per image a dict with "image_id".
            outputs: per image a dict with ``Instances`` under "instances" or, without that key, "proposals". They have
                ``pred_masks``, bool (N, H, W) in the size of the data set's image, and ``scores`` or, without that
                field, ``objectness_logits``, float (N,).

        Raises:
            InputError: the data set has no such image, a field is missing, the masks have another size or type, or a
                score is NaN.
        """
        for image_input, output in zip(inputs, outputs):
            image_id = image_input["image_id"]
            if image_id not in self._images:
                raise InputError(
                    f"Image {image_id} is not in the data set {self._dataset_name}: evaluate on the inputs' data set"
                )
            proposals = output.get("instances", output.get("proposals"))
            if proposals is None:
                raise InputError(f"Image {image_id}: the model returns {list(output)}, expected instances or proposals")
            if image_id not in self._proposals:
                self._proposals[image_id] = self._encode(image_id, proposals)

    def _encode(self, image_id: int, proposals: Instances) -> tuple[np.ndarray, list[bytes]]:
        """Return the L best proposals: scores, float64 (n,) in decreasing order, and masks as RLE counts."""
        score_field = "scores" if proposals.has("scores") else "objectness_logits"
        if not (proposals.has("pred_masks") and proposals.has(score_field)):
            fields = list(proposals.get_fields())
            raise InputError(
                f"Image {image_id}: proposals have {fields}, expected pred_masks, and scores or objectness_logits"
            )
        masks, scores = proposals.pred_masks, proposals.get(score_field).detach().double()
        image_size = self._images[image_id]["height"], self._images[image_id]["width"]
        mask_size = tuple(masks.shape[1:])
        if mask_size != image_size or masks.dtype != torch.bool:
            raise InputError(
                f"Image {image_id}: pred_masks are {masks.dtype} {mask_size}, expected torch.bool {image_size}"
            )
        if scores.isnan().any():
            raise InputError(f"Image {image_id}: {int(scores.isnan().sum())} of {len(scores)} {score_field} are NaN")
        best = torch.argsort(scores, descending=True, stable=True)[: self._limits[-1]]
        # pycocotools needs (H, W, n) in Fortran order, which is the transposed view of (n, W, H) in C order
        columns = masks[best].transpose(1, 2).contiguous().cpu().numpy().view(np.uint8)
        rles = mask_util.encode(columns.transpose(2, 1, 0))
        return scores[best].cpu().numpy(), [rle["counts"] for rle in rles]

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Compute the figures, log them, and write the proposals to ``output_dir``.

        Returns:
            ``{"mask_proposals": {figure: percent}}``, see the class for the figures. {} in processes other than the
            main one, if no image was processed, and if the data set has no annotations.

        Raises:
            InputError: the file of the results cannot be written.
        """
        proposals = self._proposals
        if self._distributed:
            proposals_per_process = comm.gather(proposals, dst=0)
            if not comm.is_main_process():
                return OrderedDict()
            proposals = {}
            for part in reversed(proposals_per_process):  # of an image that several processes have, the first's stay
                proposals.update(part)
        if not proposals:
            logger.warning("[MaskProposalEvaluator] Did not receive valid predictions.")
            return OrderedDict()
        if self._output_dir:
            path = Path(self._output_dir) / "mask_proposals_results.json"
            logger.info(f"Saving results to {path}")
            results = [result for image_id in self._images for result in self._coco_results(image_id, proposals)]
            write_json(path, results)
        if self._gt_annotations is None:
            logger.info("Annotations are not available for evaluation.")
            return OrderedDict()
        figures = self._compute_figures(self._compute_recalls(proposals))
        average_recalls = {name: value for name, value in figures.items() if not name.startswith("recall")}
        recalls_by_iou = {name: value for name, value in figures.items() if name not in average_recalls}
        tables = [create_small_table(average_recalls), create_small_table(recalls_by_iou)]
        logger.info(f"Evaluation results for {TASK}: \n" + "\n\n".join(tables))
        return OrderedDict({TASK: figures})

    def _coco_results(self, image_id: int, proposals: dict) -> list[dict]:
        """Return the proposals of one image in COCO's result format, by decreasing score."""
        scores, counts = proposals.get(image_id, ((), ()))
        size = [self._images[image_id]["height"], self._images[image_id]["width"]]
        return [
            {
                "image_id": image_id,
                "category_id": CATEGORY_ID,
                "score": float(score),
                "segmentation": {"size": size, "counts": mask_counts.decode("ascii")},
            }
            for score, mask_counts in zip(scores, counts)
        ]

    def _compute_recalls(self, proposals: dict) -> np.ndarray:
        """Compute the recall by area range, IoU threshold and number of proposals.

        Returns:
            float64 (4, 10, L), from 0 to 1, nan without objects. Axis 0 is all, small, medium and large objects; axis 1
            the thresholds ``IOU_THRESHOLDS``; axis 2 the number of proposals per image, 1 to L.
        """
        num_hits = np.zeros((4, len(IOU_THRESHOLDS), self._limits[-1]))  # by the rank of the matched proposal
        num_objects = np.zeros((4, 1, 1))
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            for image_id, annotations in self._gt_annotations.items():
                matches_by_area = self._match(image_id, proposals) if annotations else []
                for area_index, matches in enumerate(matches_by_area):
                    is_hit = (matches["dtMatches"] > 0) & ~matches["dtIgnore"]  # (IoU threshold, proposal)
                    num_hits[area_index, :, : is_hit.shape[1]] += is_hit
                    num_objects[area_index] += np.count_nonzero(matches["gtIgnore"] == 0)
        num_objects[num_objects == 0] = np.nan
        return num_hits.cumsum(2) / num_objects

    def _match(self, image_id: int, proposals: dict) -> list[dict]:
        """Return pycocotools' matches in one image, a dict per area range.

        One image at a time, because the matches of all proposals of thousands of images would not fit in memory.
        """
        results = [  # one area at a time: for 256 masks at once, pycocotools' area() fails under NumPy 2
            {**result, "id": number, "area": mask_util.area(result["segmentation"]), "iscrowd": 0}
            for number, result in enumerate(self._coco_results(image_id, proposals), 1)
        ]
        image = self._images[image_id]
        evaluation = COCOeval(_coco_index(image, self._gt_annotations[image_id]), _coco_index(image, results), "segm")
        evaluation.params.useCats, evaluation.params.maxDets = 0, [self._limits[-1]]
        evaluation.evaluate()
        return evaluation.evalImgs

    def _compute_figures(self, recalls: np.ndarray) -> dict[str, float]:
        """Compute the figures, in percent, from the array that :meth:`_compute_recalls` returns."""
        max_limit = self._limits[-1]
        average_recalls = recalls.mean(1)  # (area range, number of proposals)
        figures = {f"AR@{n}": average_recalls[0, n - 1] for n in self._limits}
        figures.update({f"AR{area}@{max_limit}": curve[-1] for area, curve in zip("sml", average_recalls[1:])})
        logs = np.log(np.arange(1, max_limit + 1))
        trapezoids = np.diff(logs) * (average_recalls[0, 1:] + average_recalls[0, :-1]) / 2
        figures["AUC"] = trapezoids.sum() / logs[-1] if max_limit > 1 else np.nan
        figures.update({f"recall@{iou:g}": recall for iou, recall in zip(IOU_THRESHOLDS, recalls[0, :, -1])})
        return {name: float(100 * value) for name, value in figures.items()}


def _coco_index(image: dict, annotations: list[dict]) -> COCO:
    """Return pycocotools' index of one image.

    It is filled directly, because the constructor reads files only and ``loadRes`` fails on an empty list.
    """
    coco = COCO()
    coco.dataset = {"images": [image], "annotations": annotations, "categories": [{"id": CATEGORY_ID}]}
    coco.createIndex()
    return coco
