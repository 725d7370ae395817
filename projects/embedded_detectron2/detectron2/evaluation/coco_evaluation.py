"""COCO's AP of boxes and masks, computed by pycocotools."""

from __future__ import annotations

import copy
import itertools
import logging
import os
from collections import OrderedDict

import numpy as np
import pycocotools.mask as mask_util
import torch
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import _read_coco, convert_to_coco_json, write_json_atomically
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table

from .evaluator import DatasetEvaluator

logger = logging.getLogger(__name__)
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class COCOEvaluator(DatasetEvaluator):
    """AP of boxes ("bbox") and masks ("segm") in percent, or nan where it cannot be computed.

    Args:
        dataset_name: name of the dataset. If its metadata has no "json_file", the dataset is written as a COCO file to
            ``output_dir``.
        tasks: "bbox", "segm" or both. By default those that the predictions have.
        distributed: gather the predictions of all processes and evaluate them in the main one. All processes must call
            `evaluate`. Otherwise each process evaluates its own predictions.
        output_dir: folder to write "coco_instances_results.json" to.
        max_dets_per_image: number of detections per image that count, by default COCO's 100.
        use_fast_impl: has no effect, because pycocotools is always used.
        allow_cached_coco: use the COCO file that an earlier run wrote to ``output_dir``.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: tuple[str, ...] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,
        allow_cached_coco: bool = True,
    ) -> None:
        self._tasks, self._distributed, self._output_dir = tasks, distributed, output_dir
        self._max_dets = [1, 10, 100 if max_dets_per_image is None else max_dets_per_image]
        self._metadata = MetadataCatalog.get(dataset_name)
        if self._metadata.get("json_file") is None:
            if output_dir is None:
                raise ValueError(f"'{dataset_name}' has no COCO file: output_dir must be provided to COCOEvaluator")
            logger.info(f"Trying to convert '{dataset_name}' to COCO format ...")
            cache_path = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            self._metadata.json_file = cache_path
            convert_to_coco_json(dataset_name, cache_path, allow_cached=allow_cached_coco)
        self._coco_api = _read_coco(self._metadata.json_file)
        self.reset()

    def reset(self) -> None:
        """Remove all predictions."""
        self._predictions: list[dict] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Add the predictions of a batch.

        Args:
            inputs: dicts with "image_id".
            outputs: dicts with "instances", whose coordinates are those of the original image.
        """
        for input, output in zip(inputs, outputs):
            image_id = input["image_id"]
            instances = instances_to_coco_json(output["instances"].to(torch.device("cpu")), image_id)
            self._predictions.append({"image_id": image_id, "instances": instances})

    def evaluate(self, img_ids: list[int] | None = None) -> OrderedDict:
        """Evaluate the predictions.

        Args:
            img_ids: images to evaluate. By default all.

        Returns:
            Per task a dict with "AP", "AP50", "AP75", "APs", "APm", "APl" and "AP-<class>". Empty if there are no
            predictions, and in all but the main process.
        """
        predictions = self._predictions
        if self._distributed:
            predictions = list(itertools.chain.from_iterable(comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return OrderedDict()
        if not predictions:
            logger.warning("[COCOEvaluator] Did not receive valid predictions.")
            return OrderedDict()
        logger.info("Preparing results for COCO format ...")
        results = list(itertools.chain.from_iterable(p["instances"] for p in predictions))
        tasks = self._tasks or (("bbox", "segm") if any("segmentation" in r for r in results) else ("bbox",))
        self._restore_category_ids(results)
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            logger.info(f"Saving results to {path}")
            write_json_atomically(path, results)
        if "annotations" not in self._coco_api.dataset:
            logger.info("Annotations are not available for evaluation.")
            return OrderedDict()
        logger.info("Evaluating predictions with official COCO API...")
        return OrderedDict((task, self._evaluate_task(task, results, img_ids)) for task in sorted(tasks))

    def _restore_category_ids(self, results: list[dict]) -> None:
        """Replace classes by the COCO file's category ids, in place."""
        id_map = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if id_map is None:
            return
        reverse = {v: k for k, v in id_map.items()}
        for result in results:
            category = result["category_id"]
            assert category in reverse, (
                f"A prediction has class={category}, but the dataset only has {len(reverse)} classes and "
                f"predicted class id should be in [0, {len(reverse) - 1}]."
            )
            result["category_id"] = reverse[category]

    def _evaluate_task(self, task: str, results: list[dict], img_ids: list[int] | None) -> dict[str, float]:
        assert task in ("bbox", "segm"), f"Got unknown task: {task}!"
        if not results:
            logger.warning("No predictions from the model!")
            return dict.fromkeys(METRICS, float("nan"))
        results = copy.deepcopy(results)  # loadRes changes them
        if task == "segm":
            # With a box, pycocotools would use the box's area to tell small, medium and large masks apart.
            for result in results:
                result.pop("bbox", None)
        coco_eval = COCOeval(self._coco_api, self._coco_api.loadRes(results), task)
        coco_eval.params.maxDets = self._max_dets
        if img_ids is not None:
            coco_eval.params.imgIds = img_ids
        coco_eval.evaluate()
        coco_eval.accumulate()
        return self._derive_results(task, coco_eval.eval["precision"], _summarize(coco_eval))

    def _derive_results(self, task: str, precision: np.ndarray, stats: list[float]) -> dict[str, float]:
        """Return the summary in percent, and AP per class.

        Args:
            task: "bbox" or "segm".
            precision: COCO's precisions (IoU, recall, class, area, max detections).
            stats: COCO's summary, 0 to 1 or -1.
        """
        results = {metric: float(s * 100 if s >= 0 else "nan") for metric, s in zip(METRICS, stats)}
        logger.info(f"Evaluation results for {task}: \n" + create_small_table(results))
        if not np.isfinite(list(results.values())).all():
            logger.info("Some metrics cannot be computed and is shown as NaN.")
        class_names = self._metadata.get("thing_classes")
        if class_names is None or len(class_names) <= 1:
            return results
        assert len(class_names) == precision.shape[2], f"{len(class_names)} classes, {precision.shape[2]} categories"
        means = (_mean(precision[:, :, i, 0, -1]) for i in range(len(class_names)))
        per_class = {name: float(m * 100 if m >= 0 else "nan") for name, m in zip(class_names, means)}
        columns = min(6, len(per_class) * 2)
        flat = list(itertools.chain.from_iterable((name, f"{ap:.3f}") for name, ap in per_class.items()))
        rows = itertools.zip_longest(*[flat[i::columns] for i in range(columns)])
        headers = ["category", "AP"] * (columns // 2)
        table = tabulate(rows, tablefmt="pipe", floatfmt=".3f", headers=headers, numalign="left")
        logger.info(f"Per-category {task} AP: \n{table}")
        results.update({f"AP-{name}": ap for name, ap in per_class.items()})
        return results


def _mean(values: np.ndarray) -> float:
    """Return the mean of the values other than -1, or -1 if there are none."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def _summarize(coco_eval: COCOeval) -> list[float]:
    """Print COCO's table of 12 lines and return its numbers (0 to 1, or -1).

    pycocotools' own function works with 100 detections per image only.
    """
    p = coco_eval.params
    areas, stats = p.areaRngLbl, []
    most = len(p.maxDets) - 1
    ap_rows = [(None, 0), (0.5, 0), (0.75, 0), (None, 1), (None, 2), (None, 3)]
    rows = [("precision", iou, area, most) for iou, area in ap_rows]
    rows += [("recall", None, 0, m) for m in range(most + 1)] + [("recall", None, area, most) for area in (1, 2, 3)]
    for kind, iou, area, dets in rows:
        values = coco_eval.eval[kind][..., area, dets]
        if iou is not None:
            values = values[np.isclose(p.iouThrs, iou)]
        stats.append(_mean(values))
        title = " Average Precision  (AP)" if kind == "precision" else " Average Recall     (AR)"
        thresholds = f"{p.iouThrs[0]:0.2f}:{p.iouThrs[-1]:0.2f}" if iou is None else f"{iou:0.2f}"
        shown = f"IoU={thresholds:<9} | area={areas[area]:>6s} | maxDets={p.maxDets[dets]:>3d}"
        print(f"{title} @[ {shown} ] = {stats[-1]:0.3f}")
    return stats


def instances_to_coco_json(instances: Instances, img_id: int) -> list[dict]:
    """Convert the predictions of one image to COCO results, with XYWH boxes and compressed RLE.

    Args:
        instances: with "pred_boxes", "scores", "pred_classes" and optionally "pred_masks" (bool (N, H, W)), on the CPU.
        img_id: id of the image.
    """
    if len(instances) == 0:
        return []
    boxes = BoxMode.convert(instances.pred_boxes.tensor.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    columns = zip(instances.pred_classes.tolist(), boxes, instances.scores.tolist())
    results = [{"image_id": img_id, "category_id": c, "bbox": b, "score": s} for c, b, s in columns]
    if instances.has("pred_masks"):
        for result, mask in zip(results, np.asarray(instances.pred_masks)):
            rle = mask_util.encode(np.array(mask[:, :, None], order="F", dtype="uint8"))[0]
            result["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("utf-8")}
    return results
