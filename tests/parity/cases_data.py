"""Cases from COCO JSON to batches and from predictions to AP, on drawn images."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import tempfile

import numpy as np
import torch

from .common import case, crc, random_values, rcnn_cfg
from .images import CROWDED, EMPTY, FEW, SMALL, TALL, UPRIGHT, coco_folder, coco_json


def _records(split: str = "train") -> list[dict]:
    """Register a split of the drawn data set once and return its dataset dicts, without output."""
    from detectron2.data import DatasetCatalog
    from detectron2.data.datasets import register_coco_instances

    name = f"parity_coco_{split}"
    if name not in DatasetCatalog.list():
        register_coco_instances(
            name,
            {"thing_colors": [[i, 2 * i, 255 - i] for i in range(80)]},
            str(coco_folder() / "annotations" / f"{split}.json"),
            str(coco_folder() / "images" / split),
        )
    with contextlib.redirect_stdout(io.StringIO()):
        return DatasetCatalog.get(name)


def _summary(record: dict) -> list:
    annotations = []
    for a in record["annotations"]:
        shape = a.get("segmentation")
        if isinstance(shape, dict):
            shape = [shape["size"], len(shape["counts"])]
        elif shape is not None:
            shape = [len(shape), sum(map(len, shape)), float(sum(map(sum, shape)))]
        annotations.append(
            [sorted(a), [float(x) for x in a["bbox"]], int(a["bbox_mode"]), a["category_id"], a["iscrowd"], shape]
        )
    name = record["file_name"].replace(str(coco_folder()), "")
    return [sorted(record), name, record["image_id"], record["height"], record["width"], annotations]


@case
def case_coco_json() -> dict:
    """Dataset dicts and metadata of a registered COCO file, also filtered as for training."""
    from detectron2.data import MetadataCatalog, get_detection_dataset_dicts

    records = _records()
    meta = MetadataCatalog.get("parity_coco_train")
    with contextlib.redirect_stdout(io.StringIO()):
        filtered = get_detection_dataset_dicts("parity_coco_train", filter_empty=True)
        both = get_detection_dataset_dicts(["parity_coco_train"] * 2, filter_empty=False)
    return {
        "records": [_summary(r) for r in records],
        "classes": meta.thing_classes,
        "ids": {str(k): v for k, v in meta.thing_dataset_id_to_contiguous_id.items()},
        "meta": [meta.name, meta.evaluator_type, meta.json_file.replace(str(coco_folder()), ""), meta.thing_colors[3]],
        "filtered": [r["image_id"] for r in filtered],
        "both": len(both),
    }


def _describe(sample: dict) -> dict:
    """Describe a mapped sample: checksum of the pixels, sizes, boxes, classes, mask areas."""
    out = {
        "keys": sorted(sample),
        "image": list(sample["image"].shape),
        "dtype": str(sample["image"].dtype),
        "pixels": crc(sample["image"].numpy()),
        "size": [sample["height"], sample["width"]],
    }
    if "instances" in sample:
        instances = sample["instances"]
        out["fields"] = sorted(instances.get_fields())
        out["image_size"] = instances.image_size
        out["boxes"] = instances.gt_boxes.tensor
        out["classes"] = instances.gt_classes
        if instances.has("gt_masks"):
            masks = instances.gt_masks
            out["masks"] = type(masks).__name__
            areas = masks.area() if type(masks).__name__ == "PolygonMasks" else masks.tensor.flatten(1).sum(1).float()
            out["areas"] = areas
    return out


def _data_cfg(*options):
    cfg = rcnn_cfg("FPN", 18)
    cfg.INPUT.MIN_SIZE_TRAIN = (120, 140, 160)
    cfg.INPUT.MAX_SIZE_TRAIN = 200
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 150, 190
    cfg.merge_from_list(list(options))
    return cfg


@case
def case_mapper() -> dict:
    """DatasetMapper from a config: polygons, bit masks with crowds as RLE, crops, flips, sizes, inference."""
    from detectron2.data import DatasetMapper

    records = {r["image_id"]: r for r in _records()}
    chosen = [records[i] for i in (CROWDED, UPRIGHT, EMPTY)]
    crop = ("INPUT.CROP.ENABLED", True, "MODEL.MASK_ON", False)  # fvcore needs shapely to crop polygons
    settings = {
        "polygon": (True, ()),
        "bitmask": (True, ("INPUT.MASK_FORMAT", "bitmask")),
        "boxes_only": (True, ("MODEL.MASK_ON", False)),
        "range": (True, ("INPUT.MIN_SIZE_TRAIN", (100, 180), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range")),
        "vertical": (True, ("INPUT.RANDOM_FLIP", "vertical")),
        "no_flip": (True, ("INPUT.RANDOM_FLIP", "none")),
        "crop": (True, crop),
        "crop_part": (True, (*crop, "INPUT.CROP.TYPE", "relative", "INPUT.CROP.SIZE", [0.5, 0.6])),
        "crop_px": (True, (*crop, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [150, 170])),
        "rgb": (True, ("INPUT.FORMAT", "RGB")),
        "test": (False, ()),
        "test_full_size": (False, ("INPUT.MIN_SIZE_TEST", 0)),
    }
    out = {}
    for name, (train, options) in settings.items():
        mapper = DatasetMapper(_data_cfg(*options), train)
        np.random.seed(7)
        samples = [mapper(copy.deepcopy(r)) for r in chosen for _ in range(2 if train else 1)]
        out[name] = [_describe(s) for s in samples]
    return out


@case
def case_bitmask_rle() -> dict:
    """Annotations as compressed RLE, mapped to bit masks, also cropped with recomputed boxes."""
    import pycocotools.mask as coco_mask
    from detectron2.data import DatasetMapper

    record = next(r for r in _records() if r["image_id"] == FEW)
    forms = []
    size = record["height"], record["width"]
    for a in record["annotations"]:
        forms.append({**a, "segmentation": coco_mask.merge(coco_mask.frPyObjects(a["segmentation"], *size))})
    crop = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [0.4, 0.5])
    out = {}
    for name, options in {"whole": (), "crop": crop, "crop_few": (*crop, "INPUT.CROP.TYPE", "relative")}.items():
        mapper = DatasetMapper(_data_cfg("INPUT.MASK_FORMAT", "bitmask", *options), True)
        np.random.seed(1)
        samples = [mapper({**copy.deepcopy(record), "annotations": copy.deepcopy(forms)}) for _ in range(3)]
        out[name] = [_describe(s) for s in samples]
    return out


@case
def case_augmentations() -> dict:
    """Each augmentation that configs can use, with a seed."""
    from detectron2.data import detection_utils as utils
    from detectron2.data import transforms as T

    record = next(r for r in _records() if r["image_id"] == TALL)
    image = utils.read_image(record["file_name"], format="BGR")
    boxes = np.array([a["bbox"] for a in record["annotations"]])
    boxes[:, 2:] += boxes[:, :2]
    points = random_values("augment/points", 20, 2, low=0, high=350).numpy().astype(np.float64)
    label = np.arange(image.shape[0] * image.shape[1], dtype=np.int64).reshape(image.shape[:2]) // 5000
    augmentations = {
        "shortest": T.ResizeShortestEdge([90, 110], 140, "choice"),
        "shortest_range": T.ResizeShortestEdge((90, 110), 140, "range"),
        "flip": T.RandomFlip(prob=1.0),
        "flip_vertical": T.RandomFlip(prob=0.5, horizontal=False, vertical=True),
        "crop_relative": T.RandomCrop("relative", (0.4, 0.7)),
        "crop_range": T.RandomCrop("relative_range", (0.4, 0.7)),
        "crop_absolute": T.RandomCrop("absolute", (100, 120)),
        "crop_absolute_range": T.RandomCrop("absolute_range", (100, 120)),
    }
    out = {"image": crc(image)}
    for name, augmentation in augmentations.items():
        np.random.seed(3)
        sample = T.AugInput(image.copy(), boxes=boxes.copy(), sem_seg=label.astype(np.uint8))
        transform = T.AugmentationList([augmentation])(sample)
        there = transform.apply_coords(points.copy())
        out[name] = {
            "image": [list(sample.image.shape), str(sample.image.dtype), crc(sample.image)],
            "boxes": sample.boxes,
            "labels": crc(sample.sem_seg),
            "points": there,
            "types": [type(t).__name__ for t in transform.transforms],
        }
    resize = T.ResizeTransform(image.shape[0], image.shape[1], 60, 50)
    out["float_image"] = resize.apply_image(image.astype(np.float32)[:, :, 0])
    grey = image[:, :, :1]
    out["grey"] = resize.apply_image(grey)
    for form in ("RGB", "L", "BGR"):
        read = utils.read_image(record["file_name"], format=form)
        out[f"read_{form}"] = [list(read.shape), str(read.dtype), crc(read)]
    built = {train: utils.build_augmentation(_data_cfg(), train) for train in (True, False)}
    out["built"] = {str(train): [str(a) for a in found] for train, found in built.items()}
    return out


@case
def case_instance_utils() -> dict:
    """Steps of the mapper: transforming annotations, converting them to instances, filtering, wrong sizes."""
    from detectron2.data import detection_utils as utils
    from detectron2.data import transforms as T

    record = next(r for r in _records() if r["image_id"] == SMALL)
    transform = T.TransformList(
        [T.HFlipTransform(record["width"]), T.ResizeTransform(record["height"], record["width"], 100, 150)]
    )
    annotations = [
        utils.transform_instance_annotations(copy.deepcopy(a), transform, (100, 150)) for a in record["annotations"]
    ]
    instances = utils.annotations_to_instances(annotations, (100, 150), mask_format="polygon")
    bits = utils.annotations_to_instances(annotations, (100, 150), mask_format="bitmask")
    instances.gt_boxes.tensor[1, 2:] = instances.gt_boxes.tensor[1, :2]  # a box without area
    kept, mask = utils.filter_empty_instances(instances, return_mask=True)
    try:
        utils.check_image_size({"file_name": "x.png", "width": 3, "height": 4}, np.zeros((4, 4, 3)))
        error = None
    except Exception as e:
        error = type(e).__name__
    return {
        "boxes": np.array([a["bbox"] for a in annotations]),
        "modes": [int(a["bbox_mode"]) for a in annotations],
        "polygon_area": instances.gt_masks.area(),
        "bit_area": bits.gt_masks.tensor.flatten(1).sum(1).float(),
        "classes": instances.gt_classes,
        "kept": len(kept),
        "mask": mask,
        "error": error,
    }


@case
def case_samplers() -> dict:
    """The first indices of each sampler, and repeat factors."""
    from detectron2.data.samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler

    def first(sampler, n: int = 100) -> list[int]:
        return [int(i) for i in itertools.islice(iter(sampler), n)]

    records = [{"annotations": [{"category_id": c} for c in cs]} for cs in ([0], [0, 1], [0, 0, 2], [1], [0], [0], [])]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, 0.6)
    return {
        "training": first(TrainingSampler(37, seed=5)),
        "training_in_order": first(TrainingSampler(7, shuffle=False, seed=5), 20),
        "repeat_factors": factors,
        "repeat": first(RepeatFactorTrainingSampler(factors, seed=5)),
        "repeat_in_order": first(RepeatFactorTrainingSampler(factors, shuffle=False, seed=5)),
        "inference": list(InferenceSampler(7)),
    }


@case
def case_loaders() -> dict:
    """Batches of the training loader, with and without grouping by aspect ratio, and of the test loader."""
    from detectron2.data import build_detection_test_loader, build_detection_train_loader
    from detectron2.data.samplers import TrainingSampler

    records = [{"index": i, "width": 10 + 10 * (i % 3 == 0), "height": 15} for i in range(11)]

    def batches(n: int, **options) -> list:
        loader = build_detection_train_loader(
            list(records), mapper=dict, sampler=TrainingSampler(len(records), seed=3), num_workers=0, **options
        )
        return [[r["index"] for r in batch] for batch in itertools.islice(iter(loader), n)]

    test = build_detection_test_loader(list(records), mapper=dict, num_workers=0)
    test_pairs = build_detection_test_loader(list(records), mapper=dict, num_workers=0, batch_size=4)
    return {
        "grouped": batches(12, total_batch_size=2, aspect_ratio_grouping=True),
        "plain": batches(12, total_batch_size=3, aspect_ratio_grouping=False),
        "test": [[r["index"] for r in b] for b in test],
        "test_pairs": [[r["index"] for r in b] for b in test_pairs],
    }


def _evaluate(kind: str, name: str, tasks: tuple | None = None) -> dict:
    """Run COCOEvaluator on the ground truth ("perfect"), on it moved ("jittered"), or on nothing."""
    from detectron2.evaluation import COCOEvaluator
    from detectron2.structures import Boxes, Instances, polygons_to_bitmask

    coco = coco_json("val")
    records = _records("val")
    ids = sorted(c["id"] for c in coco["categories"])
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOEvaluator(name, tasks=tasks, distributed=False, output_dir=folder)
        evaluator.reset()
        for record in records:
            size = record["height"], record["width"]
            truth = [a for a in coco["annotations"] if a["image_id"] == record["image_id"] and not a["iscrowd"]]
            n = len(truth)
            instances = Instances(size)
            shift = (
                random_values(f"ap/{record['image_id']}", n, 2, low=-6, high=6).double().numpy()
                if kind == "jittered"
                else np.zeros((n, 2))
            )
            boxes = np.array([a["bbox"] for a in truth])
            boxes[:, 2:] += boxes[:, :2]
            polygons = [
                [np.array(p) + np.tile(s, len(p) // 2) for p in a["segmentation"]] for a, s in zip(truth, shift)
            ]
            instances.pred_boxes = Boxes(torch.tensor(boxes + np.tile(shift, 2), dtype=torch.float32))
            instances.scores = random_values(f"ap/scores/{record['image_id']}", n, low=0.1, high=1)
            instances.pred_classes = torch.tensor([ids.index(a["category_id"]) for a in truth])
            if kind == "jittered":
                instances.pred_classes[::5] = (instances.pred_classes[::5] + 1) % len(ids)
            instances.pred_masks = torch.from_numpy(np.stack([polygons_to_bitmask(p, *size) for p in polygons]))
            if kind == "empty":
                instances = instances[:0]
            evaluator.process([{"image_id": record["image_id"], **record}], [{"instances": instances}])
        results = evaluator.evaluate()
    return {task: {k: float(v) for k, v in values.items()} for task, values in results.items()}


@case
def case_coco_ap() -> dict:
    """All summary numbers, and AP per category."""
    name = "parity_coco_val"
    out = {kind: _evaluate(kind, name) for kind in ("perfect", "jittered", "empty")}
    out["boxes_only"] = _evaluate("jittered", name, tasks=("bbox",))
    return out


@case
def case_results_format() -> dict:
    """instances_to_coco_json, print_csv_format, verify_results and DatasetEvaluators."""
    import logging

    from detectron2.config import get_cfg
    from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, print_csv_format, verify_results
    from detectron2.evaluation.coco_evaluation import instances_to_coco_json
    from detectron2.evaluation.testing import flatten_results_dict
    from detectron2.structures import Boxes, Instances

    found = Instances((20, 30))
    found.pred_boxes = Boxes(torch.tensor([[1.0, 2.0, 11.0, 12.5], [0.0, 0.0, 30.0, 20.0]]))
    found.scores = torch.tensor([0.75, 0.5])
    found.pred_classes = torch.tensor([3, 0])
    masks = torch.zeros(2, 20, 30, dtype=torch.bool)
    masks[0, 2:12, 1:11], masks[1, 5:, :] = True, True
    found.pred_masks = masks

    class Fixed(DatasetEvaluator):
        def __init__(self, results: dict) -> None:
            self.results = results

        def process(self, inputs, outputs) -> None:
            self.results[f"seen_{len(inputs)}"] = {}

        def evaluate(self) -> dict:
            return self.results

    many = DatasetEvaluators([Fixed({"a": {"x": 1.0}}), Fixed({"b": {"y": 2.0}})])
    many.reset()
    try:
        many.process([1], [2])
        together = many.evaluate()
    except AssertionError:
        together = "the same key twice"
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("detectron2.evaluation.testing")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    print_csv_format({"bbox": {"AP": 12.34567, "AP50": 50.0, "AP-cat": 3.0}})
    cfg = get_cfg()
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 40.0, 0.5]]
    verified = verify_results(cfg, {"bbox": {"AP": 40.3}})
    try:
        verify_results(cfg, {"bbox": {"AP": 42.0}})
        exit_code = None
    except SystemExit as e:
        exit_code = e.code
    logger.removeHandler(handler)
    return {
        "coco": instances_to_coco_json(found, 17),
        "together": together,
        "csv": [line for line in lines if line.startswith("copypaste")],
        "verified": bool(verified),
        "exit_code": exit_code,
        "flat": flatten_results_dict({"bbox": {"AP": 1.0, "sub": {"z": 2.0}}, "n": 3.0}),
    }
