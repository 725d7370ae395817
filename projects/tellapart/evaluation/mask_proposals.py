"""How many objects do class-agnostic mask proposals find: average recall, the measure of DeepMask and InstanceFCN."""

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
CATEGORY = 1  # of everything: classes don't count
IOUS = Params("segm").iouThrs  # 0.5, 0.55 ... 0.95


class MaskProposalEvaluator(DatasetEvaluator):
    """Average recall (AR) of class-agnostic mask proposals on a data set, in percent; nan where there are no objects.

    Proposals are matched by pycocotools, as for COCO's AR with ``useCats = 0``: by falling score, each takes the free
    object of highest IoU; crowd regions are no objects. With L the largest of ``limits``, the figures are

    - ``AR@n``, for each limit n: recall with the n best proposals of each image, mean over IoU 0.5, 0.55 ... 0.95;
    - ``ARs@L``, ``ARm@L``, ``ARl@L``: the same of objects of an area up to 32^2, from 32^2 to 96^2, from 96^2 pixels;
    - ``AUC`` (as in DeepMask, Pinheiro et al. 2015): area under AR@n over log n from n = 1 to L, divided by log L, so
      that a constant AR has itself as AUC. Trapezoids between all whole n. nan if L is 1;
    - ``recall@t``: recall with L proposals at IoU t alone.

    All images of the data set count; one that was never seen has no proposals.

    Args:
        dataset_name: its metadata has "json_file"; without, the data set is written as a COCO file to ``output_dir``.
        distributed: gather the proposals of all processes and evaluate in the main one (all must call `evaluate`); an
            image that several have seen counts once. Otherwise each process evaluates what it saw.
        output_dir: gets "mask_proposals_results.json", in COCO's result format with category 1.
        limits: numbers of proposals of an image that count.

    Raises:
        InputError: ``limits`` are not whole numbers above 0; the data set has no COCO file and there is no
            ``output_dir``; the file can't be read or has annotations without segmentation or area.
    """

    def __init__(
        self, dataset_name: str, distributed: bool = True, output_dir: str | None = None, *,
        limits: Sequence[int] = (10, 100, 1000),
    ) -> None:  # fmt: skip
        if not limits or any(not isinstance(n, int) or n < 1 for n in limits):
            raise InputError(f"limits are {limits}, wanted numbers of proposals: one or more whole numbers above 0")
        self._name, self._distributed, self._output_dir = dataset_name, distributed, output_dir
        self._limits = sorted(set(limits))
        self._read_truth()
        self.reset()

    def _read_truth(self) -> None:
        """Sets ``_images`` and ``_truth``, the annotations, by image id; the latter is None where a file has none."""
        metadata = MetadataCatalog.get(self._name)
        if metadata.get("json_file") is None:
            if not self._output_dir:
                raise InputError(f"Data set {self._name} has no COCO file: give output_dir, to write one there")
            path = os.path.join(self._output_dir, f"{self._name}_coco_format.json")
            convert_to_coco_json(self._name, path)
            metadata.json_file = path
        path = metadata.json_file
        try:
            content = json.loads(Path(PathManager.get_local_path(path)).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"Data set {self._name}: {path} can't be read: {error}") from error
        self._images = {image["id"]: image for image in content["images"]}
        self._truth: dict[int, list[dict]] | None = None
        if "annotations" not in content:
            return
        self._truth = {image_id: [] for image_id in self._images}
        # pycocotools goes through an image's objects category by category: where IoUs are equal, the order tells
        for n, annotation in enumerate(sorted(content["annotations"], key=lambda a: a["category_id"]), 1):
            if not annotation.get("segmentation") or "area" not in annotation:
                raise InputError(f"{path}: annotation {annotation['id']} lacks segmentation or area")
            # not the file's id: pycocotools takes a match with object 0 for none
            numbered = {"iscrowd": 0, **annotation, "id": n, "category_id": CATEGORY}
            self._truth[annotation["image_id"]].append(numbered)

    def reset(self) -> None:
        """Forgets all proposals."""
        self._found: dict[int, tuple[np.ndarray, list[bytes]]] = {}  # scores, falling, and RLE counts by image id

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Takes in the proposals of a batch; of an image that was there already nothing.

        Args:
            inputs: with "image_id".
            outputs: ``Instances`` under "instances" or, where there are none, "proposals": ``pred_masks``, bool
                (N, H, W) in the size of the data set's image, and ``scores`` or, without, ``objectness_logits``, (N,).

        Raises:
            InputError: the image is not in the data set; there are no such fields; masks of another size or type; a
                score is NaN.
        """
        for given, output in zip(inputs, outputs):
            image_id = given["image_id"]
            if image_id not in self._images:
                raise InputError(f"Image {image_id} is not in the data set {self._name}")
            found = output.get("instances", output.get("proposals"))
            if found is None:
                raise InputError(f"Image {image_id}: the model gives {list(output)}, wanted instances or proposals")
            if image_id not in self._found:
                self._found[image_id] = self._encode(image_id, found)

    def _encode(self, image_id: int, found: Instances) -> tuple[np.ndarray, list[bytes]]:
        """The best proposals' scores, float64 (n,), falling, and masks as RLE counts."""
        field = "scores" if found.has("scores") else "objectness_logits"
        if not (found.has("pred_masks") and found.has(field)):
            fields = list(found.get_fields())
            raise InputError(f"Image {image_id}: proposals have {fields}, wanted pred_masks, and scores or logits")
        masks, scores = found.pred_masks, found.get(field).detach().double()
        size, wanted = tuple(masks.shape[1:]), (self._images[image_id]["height"], self._images[image_id]["width"])
        if size != wanted or masks.dtype != torch.bool:
            raise InputError(f"Image {image_id}: pred_masks are {masks.dtype} {size}, wanted torch.bool {wanted}")
        if scores.isnan().any():
            raise InputError(f"Image {image_id}: {int(scores.isnan().sum())} of {len(scores)} {field} are NaN")
        best = torch.argsort(scores, descending=True, stable=True)[: self._limits[-1]]
        # (n, W, H) seen from behind is (H, W, n) in Fortran's order, which pycocotools wants
        columns = masks[best].transpose(1, 2).contiguous().cpu().numpy().view(np.uint8)
        rles = mask_util.encode(columns.transpose(2, 1, 0))
        return scores[best].cpu().numpy(), [rle["counts"] for rle in rles]

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Scores the proposals.

        Returns:
            ``{"mask_proposals": {figure: percent}}``, figures as in the class's description; {} on other than the main
            process, where nothing was predicted on, and where the data set has no annotations.

        Raises:
            InputError: the results file can't be written.
        """
        found = self._found
        if self._distributed:
            parts = comm.gather(found, dst=0)
            if not comm.is_main_process():
                return OrderedDict()
            found = {image_id: one for part in reversed(parts) for image_id, one in part.items()}  # the first's stays
        if not found:
            logger.warning("[MaskProposalEvaluator] Did not receive valid predictions.")
            return OrderedDict()
        if self._output_dir:
            path = Path(self._output_dir) / "mask_proposals_results.json"
            logger.info(f"Saving results to {path}")
            write_json(path, [result for image_id in self._images for result in self._results(image_id, found)])
        if self._truth is None:
            logger.info("Annotations are not available for evaluation.")
            return OrderedDict()
        figures = self._figures(self._recalls(found))
        main = {name: value for name, value in figures.items() if not name.startswith("recall")}
        at_iou = {name: value for name, value in figures.items() if name not in main}
        tables = [create_small_table(main), create_small_table(at_iou)]
        logger.info(f"Evaluation results for {TASK}: \n" + "\n\n".join(tables))
        return OrderedDict({TASK: figures})

    def _results(self, image_id: int, found: dict) -> list[dict]:
        """The proposals of one image as COCO results, by falling score."""
        scores, counts = found.get(image_id, ((), ()))
        size = [self._images[image_id]["height"], self._images[image_id]["width"]]
        return [
            {
                "image_id": image_id,
                "category_id": CATEGORY,
                "score": float(score),
                "segmentation": {"size": size, "counts": one.decode("ascii")},
            }
            for score, one in zip(scores, counts)
        ]

    def _recalls(self, found: dict) -> np.ndarray:
        """Recall (0..1, nan without objects) of objects of all, small, medium and large area (axis 0) at each IoU
        (axis 1) with 1 to L proposals (axis 2), float64 (4, 10, L)."""
        hits, objects = np.zeros((4, len(IOUS), self._limits[-1])), np.zeros((4, 1, 1))
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            for image_id, truth in self._truth.items():
                for area, match in enumerate(self._match(image_id, found) if truth else []):
                    hit = (match["dtMatches"] > 0) & ~match["dtIgnore"]  # IoU, proposal
                    hits[area, :, : hit.shape[1]] += hit
                    objects[area] += np.count_nonzero(match["gtIgnore"] == 0)
        objects[objects == 0] = np.nan
        return hits.cumsum(2) / objects

    def _match(self, image_id: int, found: dict) -> list[dict]:
        """pycocotools' matches in one image, a dict for each range of areas. One image at a time: the matches of a
        thousand proposals in each of thousands of images would fill the memory."""
        proposals = [  # areas one by one: of 256 masks at once pycocotools can't tell them under NumPy 2
            {**result, "id": n, "area": mask_util.area(result["segmentation"]), "iscrowd": 0}
            for n, result in enumerate(self._results(image_id, found), 1)
        ]
        image = self._images[image_id]
        evaluation = COCOeval(_coco(image, self._truth[image_id]), _coco(image, proposals), "segm")
        evaluation.params.useCats, evaluation.params.maxDets = 0, [self._limits[-1]]
        evaluation.evaluate()
        return evaluation.evalImgs

    def _figures(self, recalls: np.ndarray) -> dict[str, float]:
        """The figures, out of ``_recalls``."""
        most = self._limits[-1]
        curves = recalls.mean(1)  # areas, numbers of proposals
        figures = {f"AR@{n}": curves[0, n - 1] for n in self._limits}
        figures.update({f"AR{area}@{most}": curve[-1] for area, curve in zip("sml", curves[1:])})
        logs = np.log(np.arange(1, most + 1))
        trapezoids = np.diff(logs) * (curves[0, 1:] + curves[0, :-1]) / 2
        figures["AUC"] = trapezoids.sum() / logs[-1] if most > 1 else np.nan
        figures.update({f"recall@{iou:g}": recall for iou, recall in zip(IOUS, recalls[0, :, -1])})
        return {name: float(100 * value) for name, value in figures.items()}


def _coco(image: dict, annotations: list[dict]) -> COCO:
    """pycocotools' index of one image; it has no other way in than files, and ``loadRes``, which fails on nothing."""
    coco = COCO()
    coco.dataset = {"images": [image], "annotations": annotations, "categories": [{"id": CATEGORY}]}
    coco.createIndex()
    return coco
