"""Choose a method and the settings of a config from a data set: scale, crops, anchors, limits, iterations.

The rules follow the quick configs for shapes, nuclei and worms, which were tuned by hand (docs/own-data.md compares).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data.statistics import MaskMeasurements, Objects
from .model_info import ModelInfo

METHODS = ("fcis", "semiconv", "maskrcnn")
_CONFIGS = {
    "fcis": "quick/fcis/fcis_R_18_nuclei.yaml",
    "maskrcnn": "quick/mask_rcnn/mask_rcnn_R_18_FPN_nuclei.yaml",
    "semiconv": "quick/semiconv/semiconv_R_18_FPN_worms.yaml",
}
_THIN_FILL = 0.4  # median share of its box that a mask fills: 0.22 for worms, 0.60 for shapes, 0.77 for nuclei
_CROWDED = 0.3  # mean share of other objects in an object's box, above that of shapes (0.2), where FCIS is better
# Square root of the box area, median over the objects, in pixels of the network's input: below and above this range the
# images are resized, so that it is at the nearer one of the second range.
_SIDES_KEPT, _SIDES_RESIZED = (18.0, 80.0), (22.0, 64.0)
_FEW_CATEGORIES = 5  # up to which objects are taken for cells, seeds and the like, without an up and a down
_SPANS_DIFFER = 2.0  # factor between the gray levels of images, 4.4 for nuclei, 1.6 for shapes
_SIZE_JITTER = (0.8, 1.25)  # factors: sizes in training vary from the first to the second
# Methods with rotations and other sizes in training. Image-resolution masks of worms lost 17 AP with them: the masks of
# BBBC010 lie one pixel beside what is seen, which cannot be learned of rotated images.
_AUGMENTED = ("fcis",)
_MAX_ENLARGED = 3.0  # factor
_MAX_PIXELS = 125_000  # of a training image after resizing, above which it is cropped or reduced
_CROP_SIDE, _REDUCED_PIXELS = 300.0, 100_000  # pixels
_LONGEST_IN_CROP = 2.2  # a crop's side, in lengths of long objects (95th percentile), so that most are whole in it
_MAX_TEST_SIDE = 1333  # pixels: Detectron2's default. Larger images are predicted in tiles.
_TILE_SIDE = 800
_PIXELS_PER_BATCH, _LARGEST_BATCH = {"fcis": 230_000, "maskrcnn": 230_000, "semiconv": 200_000}, 8
# Pixels that a training sees: 100 million are about 400 iterations of 4 images of 256 px.
_PIXELS_SEEN = {"fcis": 250e6, "maskrcnn": 110e6, "semiconv": 220e6}
# FCIS has 2 k^2 (categories + 1) score maps: above the first number an iteration takes longer, at the second twice as
# long.
_CHEAP_MAPS, _MAPS_OF_DOUBLE_TIME = 400, 1400
_ADDED_OPERATORS = {
    "MODEL.ROI_HEADS.NAME": "SemiConvROIHeads", "MODEL.ROI_MASK_HEAD.NAME": "SemiConvMaskHead",
    "SOLVER.BASE_LR": 0.0005,
}  # fmt: skip
_ITERATIONS = (200, 1500)
_NUM_EVALUATIONS = 4  # during a training, the last one at its end
_FEW_DETECTIONS, _FEW_PROPOSALS = 100, 100
# FCIS: score maps per side for at most so many categories; the number of maps is 2 k^2 (categories + 1).
_GRIDS = ((5, 7, 14), (12, 5, 15), (10_000, 3, 12))  # categories, GRID_SIZE, RESOLUTION
_FINE_TUNED_LR, _FINE_TUNED_ITERATIONS = 0.3, 0.5  # factors with weights of another training


@dataclass(frozen=True)
class Settings:
    """A method and its training.

    Attributes:
        method: of ``METHODS``.
        base: the config to start from, a name in the model zoo or a file.
        options: the values that differ, by full key, such as ``SOLVER.MAX_ITER``.
        notes: what a user should know about the choice.
    """

    method: str
    base: str
    options: dict[str, Any]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Start:
    """A trained model to start from.

    Attributes:
        config, weights: its files.
        method: of ``METHODS``.
        info: what is known of its training.
    """

    config: str
    weights: str
    method: str
    info: ModelInfo | None


def choose_settings(
    classes: list[str], objects: Objects, has_masks: bool, method: str, num_channels: int = 3, world_size: int = 1,
    start: Start | None = None, gray_spans: Sequence[float] = (),
) -> Settings:  # fmt: skip
    """Choose the settings of a method for a data set.

    Args:
        classes: names of its categories.
        objects: of the training set; at least one.
        has_masks: whether it has masks.
        method: of ``METHODS``.
        num_channels: of the images.
        world_size: number of processes, of which the batch size is a multiple.
        start: a trained model whose weights, architecture, anchors and scaling of pixels are kept.
        gray_spans: see :func:`measure_gray_spans`.
    """
    scale = _Scale.of(objects, start.info if start else None)
    options = {
        "MODEL.ROI_HEADS.NUM_CLASSES": len(classes), **_limits(objects, method), **scale.options(objects, method),
        **_channels(num_channels),
    }  # fmt: skip
    if not has_masks:
        options["MODEL.MASK_ON"] = False
    options["TEST.BEST_CHECKPOINT"] = "segm/AP" if has_masks else "bbox/AP"
    notes = list(scale.notes)
    if start is None:
        options["INPUT.AUGMENTATION.DIHEDRAL"] = method in _AUGMENTED and len(classes) <= _FEW_CATEGORIES
        if options["INPUT.AUGMENTATION.DIHEDRAL"]:
            notes.append(
                "images are rotated by 90 degrees and reflected at random: set INPUT.AUGMENTATION.DIHEDRAL to False if "
                "objects have an up and a down"
            )
        scaling, note = _pixel_scaling(gray_spans)
        options.update(scaling)
        notes += note
        options["MODEL.ANCHOR_GENERATOR.SIZES"] = _anchor_sizes(objects, scale.factor)
        if method == "fcis":
            # At the base config's 0.5, AP is 0.4 higher on nuclei, but duplicates cost 3 to 9 points of F1.
            options.update({**_grid(len(classes)), "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.3})
        else:
            options.update({"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 64, "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.5})
    batch = _round_up(min(max(_PIXELS_PER_BATCH[method] / scale.train_pixels, 2), _LARGEST_BATCH), world_size)
    iterations = _PIXELS_SEEN[method] / (batch * scale.train_pixels)
    if method == "fcis":
        iterations /= _cost(len(classes))
    iterations = np.clip(iterations, *_ITERATIONS)
    options["SOLVER.IMS_PER_BATCH"] = batch
    if start is not None:
        options.update({"MODEL.WEIGHTS": start.weights, "SOLVER.BASE_LR": 0.001 * _FINE_TUNED_LR})
        options["SOLVER.EMA_DECAY"] = 0.0  # an average over the model's long training would span all of a short one
        iterations *= _FINE_TUNED_ITERATIONS
    if start is not None and start.method != method:  # as in the paper, the operators are added to a Mask R-CNN
        options.update(_ADDED_OPERATORS)
    base = start.config if start else _CONFIGS[method]
    options.update(_duration(iterations))
    return Settings(method, base, options, notes)


def choose_method(masks: MaskMeasurements | None) -> tuple[str, str]:
    """Return the method that fits the shapes of the masks, and why.

    Thin or crowded objects, whose boxes hold much of their neighbors, go to Mask R-CNN with semi-convolutional
    operators, and all others to FCIS: docs/results.md has the measurements behind this.
    """
    if masks is None:
        return "maskrcnn", "there are no masks: a model of boxes"
    fill, crowding = float(np.median(masks.fill)), float(masks.crowding.mean())
    numbers = (
        f"half of the masks fill at least {fill:.0%} of their boxes, and {crowding:.0%} of the object pixels in a box "
        "are others'"
    )
    if fill < _THIN_FILL or crowding > _CROWDED:
        return "semiconv", f"{numbers}: semi-convolutional operators separate neighbors in one box"
    return "fcis", f"{numbers}: FCIS suits compact objects"


def _limits(objects: Objects, method: str) -> dict[str, Any]:
    """Return the limits of the number of objects: 1.5 times as many as any training image has."""
    detections = max(_FEW_DETECTIONS, 10 * math.ceil(1.5 * int(objects.per_image.max()) / 10))
    proposals = _FEW_PROPOSALS if method == "fcis" and detections == _FEW_DETECTIONS else max(250, 2 * detections)
    options = {"TEST.DETECTIONS_PER_IMAGE": detections, "MODEL.RPN.POST_NMS_TOPK_TEST": proposals}
    if proposals > 500:
        options["MODEL.RPN.PRE_NMS_TOPK_TEST"] = proposals
    return options


def _grid(num_classes: int) -> dict[str, Any]:
    _, grid_size, resolution = next(one for one in _GRIDS if num_classes <= one[0])
    return {"MODEL.FCIS.GRID_SIZE": grid_size, "MODEL.FCIS.RESOLUTION": resolution}


def _cost(num_classes: int) -> float:
    """Return the time of an iteration of FCIS against that with few categories."""
    num_maps = 2 * _grid(num_classes)["MODEL.FCIS.GRID_SIZE"] ** 2 * (num_classes + 1)
    return 1.0 + max(0, num_maps - _CHEAP_MAPS) / (_MAPS_OF_DOUBLE_TIME - _CHEAP_MAPS)


def _channels(number: int) -> dict[str, Any]:
    return {} if number == 3 else {"MODEL.PIXEL_MEAN": [127.5] * number, "MODEL.PIXEL_STD": [64.0] * number}


def _pixel_scaling(gray_spans: Sequence[float]) -> tuple[dict[str, Any], list[str]]:
    """Return ``INPUT.SCALING`` and a note: each image has its own range where the ranges of gray levels differ."""
    low, high = np.percentile(gray_spans, [10, 90]) if len(gray_spans) else (0.0, 0.0)
    if high <= _SPANS_DIFFER * max(low, 1.0):
        return {"INPUT.SCALING": "auto"}, []
    note = (
        f"gray levels span {low:.0f} to {high:.0f} of 255 (10th to 90th percentile of the images): each image is "
        "scaled to its own range (INPUT.SCALING)"
    )
    return {"INPUT.SCALING": "percentile"}, [note]


def _duration(iterations: float) -> dict[str, Any]:
    """Return the number of iterations, and of those between evaluations and checkpoints."""
    number = 20 * max(1, round(iterations / 20))
    period = 10 * math.ceil(number / _NUM_EVALUATIONS / 10)
    return {"SOLVER.MAX_ITER": number, "TEST.EVAL_PERIOD": period, "SOLVER.CHECKPOINT_PERIOD": period}


def _anchor_sizes(objects: Objects, factor: float) -> list[list[int]]:
    """Return one anchor size per level, powers of two from about half of the objects' 5th percentile."""
    low = float(np.percentile(np.sqrt(objects.sides.prod(1)), 5)) * factor
    first = int(np.clip(2 ** math.floor(math.log2(max(0.5 * low, 1.0))), 8, 32))
    return [[first * 2**level] for level in range(5)]


def _round_up(number: float, multiple: int) -> int:
    return multiple * math.ceil(round(number) / multiple)


@dataclass(frozen=True)
class _Scale:
    """How images are resized and cropped.

    Attributes:
        factor: by which the median image is resized.
        crop: share of a training image's sides, 1 without crops.
        train_pixels: of a median training image as the network sees it.
        keep_sizes: images are not resized, because their sizes differ and the factor is 1.
        notes: see :class:`Settings`.
    """

    factor: float
    crop: float
    train_pixels: float
    keep_sizes: bool
    notes: list[str]

    @classmethod
    def of(cls, objects: Objects, info: ModelInfo | None) -> _Scale:
        sizes = np.sqrt(objects.sides.prod(1))
        long = np.percentile(objects.sides.max(1), 95)
        median, notes = float(np.median(sizes)), []
        factor = 1.0
        if info is not None and info.object_size:
            factor = float(np.clip(info.object_size / np.percentile(objects.sides.max(1), 99), 0.25, _MAX_ENLARGED))
            if 0.8 < factor < 1.25:
                factor = 1.0
        elif median < _SIDES_KEPT[0]:
            factor = min(_MAX_ENLARGED, _SIDES_RESIZED[0] / median)
        elif median > _SIDES_KEPT[1]:
            factor = _SIDES_RESIZED[1] / median
        pixels = float(np.median(objects.image_sizes.prod(1))) * factor**2
        crop = 1.0
        if pixels > _MAX_PIXELS:
            side = max(_CROP_SIDE, _LONGEST_IN_CROP * long * factor)
            if side**2 <= _MAX_PIXELS:
                crop = round(float(side) / pixels**0.5, 2)
            elif info is None:  # objects too large for crops: reduce, but not below the smallest size
                reduced = factor * max((_REDUCED_PIXELS / pixels) ** 0.5, min(1.0, _SIDES_KEPT[0] / (median * factor)))
                pixels, factor = pixels * (reduced / factor) ** 2, reduced
        low, high = np.percentile(objects.image_sizes.min(1), [5, 95])
        keep_sizes = factor == 1.0 and crop == 1.0 and high > 1.5 * low and objects.image_sizes.max() <= _MAX_TEST_SIDE
        if high > 1.5 * low and not keep_sizes:
            notes.append(
                f"shorter sides of the images are {low:.0f} to {high:.0f} px (5th to 95th percentile), and all images "
                "are resized to one: if objects have the same size in pixels in all of them, set INPUT.MIN_SIZE_TRAIN "
                "and MIN_SIZE_TEST to 0"
            )
        return cls(factor, crop, pixels * crop**2, bool(keep_sizes), notes)

    def options(self, objects: Objects, method: str) -> dict[str, Any]:
        jitter = _SIZE_JITTER if method in _AUGMENTED else (1.0, 1.0)
        if self.keep_sizes:
            return {**_sizes(0, 0, 1.0, jitter), "INPUT.CROP.ENABLED": False}
        short = float(np.median(objects.image_sizes.min(1)))
        ratio = min(4.0, float((objects.image_sizes.max(1) / objects.image_sizes.min(1)).max()))
        test = round(short * self.factor)
        options = _sizes(round(short * self.factor * self.crop), test, ratio, jitter)
        if test > _MAX_TEST_SIDE:
            options = {**_sizes(round(short * self.factor * self.crop), _TILE_SIDE, ratio, jitter), "TEST.TILE": "auto"}
        options["INPUT.CROP.ENABLED"] = self.crop < 1
        if self.crop < 1:
            options.update({"INPUT.CROP.TYPE": "relative", "INPUT.CROP.SIZE": [self.crop, self.crop]})
        return options


def _sizes(train: int, test: int, ratio: float, jitter: tuple[float, float]) -> dict[str, Any]:
    """Return the sizes of the shorter side, 0 without resizing; those of training vary around ``train``."""
    trained = [round(train * factor) for factor in jitter] if train else [0]
    longest = [math.ceil(size * ratio) or _MAX_TEST_SIDE for size in (trained[-1], test)]
    return {
        "INPUT.MIN_SIZE_TRAIN": trained, "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range" if train else "choice",
        "INPUT.MAX_SIZE_TRAIN": longest[0], "INPUT.MIN_SIZE_TEST": test, "INPUT.MAX_SIZE_TEST": longest[1],
    }  # fmt: skip
