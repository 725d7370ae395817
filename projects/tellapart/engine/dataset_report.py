"""``tellapart check``: read data sets as training does, describe them, and suggest a method and settings."""

from __future__ import annotations

import logging
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode

from ..data.content import DatasetContent
from ..data.data_argument import register_argument
from ..data.image_reading import ImageReader
from ..data.reader import read_dataset
from ..data.statistics import MaskMeasurements, Objects, evenly_spread, measure_masks, report
from ..errors import InputError, print_error
from .checkpoint import check_weights
from .config_checks import check_datasets, load_config
from .trainer import EVALUATORS
from .value_checks import check_values

_NUM_OPENED = 16  # images whose headers are described
_THIN_FILL = 0.4  # median share of its box that a mask fills: 0.22 for worms, 0.60 for shapes, 0.77 for nuclei
_CROWDED = 0.3  # mean share of other objects in an object's box, above that of shapes (0.2), where FCIS is better
_MAX_SIDE = 1333  # pixels of the longer side after resizing, Detectron2's default
_DEFAULT_DETECTIONS, _MIN_PROPOSALS = 100, 300
_CPU = ("MODEL.DEVICE", "cpu")  # checking needs no GPU


@dataclass(frozen=True)
class Suggestion:
    """A config of the model zoo and values for it.

    Attributes:
        config: name of the config.
        reason: why this method.
        options: key and value, as written on the command line.
    """

    config: str
    reason: str
    options: dict[str, str]


def check(data: Sequence[str], config_file: str = "", opts: Sequence[str] = ()) -> int:
    """Check data sets as training would, and print what they contain.

    Args:
        data: registered names, "NAME=JSON:IMAGES", "JSON:IMAGES", or a JSON file beside its images. The first is for
            training, the others are for testing. Empty: the data sets of the config.
        config_file: also check this config, and the data sets against it.
        opts: [key, value, ...] of the config.

    Returns:
        The exit code: 0, or 1 if training would fail.
    """
    _log_to_stdout()
    try:
        cfg = load_config(config_file, [*_CPU, *opts])
        names = [register_argument(text) for text in data] or [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
        train, test = (names[:1], names[1:]) if data else (list(cfg.DATASETS.TRAIN), list(cfg.DATASETS.TEST))
        if not names:
            raise InputError("there is no data set to check: name one, such as annotations.json:images, or a config")
        masks, bad_annotations = cfg.MODEL.MASK_ON if config_file else None, cfg.DATALOADER.BAD_ANNOTATIONS
        contents = {name: read_dataset(name, masks=masks, bad_annotations=bad_annotations) for name in names}
        measured = {name: _measure(content) for name, content in contents.items()}
        for name, content in contents.items():
            lines = [*report(measured[name][0], content.classes, measured[name][1]), _describe_images(cfg, content)]
            print("\n".join([content.where, *(f"  {line}" for line in lines)]))
        if not config_file:
            first = contents[names[0]]
            first.check_trainable(needs_masks=first.has_masks)
            suggestion = suggest(first, *measured[names[0]])
            _print(suggestion)
            more = [word for pair in suggestion.options.items() for word in pair]
            cfg = load_config(suggestion.config, [*_CPU, *more, "MODEL.WEIGHTS", "", *opts])
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = tuple(train), tuple(test)
        check_values(cfg, tuple(EVALUATORS), is_training=bool(train))
        check_weights(cfg, resume=False, needed=False)
        check_datasets(cfg, train, test)
    except InputError as error:
        print_error(error)
        return 1
    print(f"no reason found why {'training' if train else 'evaluation'} would fail")
    return 0


def _log_to_stdout() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("tellapart")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


def _measure(content: DatasetContent) -> tuple[Objects, MaskMeasurements | None]:
    has_masks = content.has_masks and content.has_annotations
    return Objects.from_records(content.records), measure_masks(content.records) if has_masks else None


def _describe_images(cfg: CfgNode, content: DatasetContent) -> str:
    """Return a line with the kinds of images of a data set."""
    reader, kinds, num_opened = ImageReader.from_cfg(cfg), Counter(), 0
    for i in evenly_spread(len(content.records), _NUM_OPENED):
        file_name = content.records[i].get("file_name", "")
        try:
            info = reader.describe(file_name)
        except OSError as error:
            kinds[f"unreadable ({error})"] += 1
            continue
        finally:
            num_opened += 1
        pages = f", {info.num_pages} pages" if info.num_pages > 1 else ""
        turned = f", EXIF orientation {info.orientation}" if info.orientation != 1 else ""
        channels = "channel" if info.num_channels == 1 else "channels"
        kinds[f"{info.mode}, {info.bit_depth} bits, {info.num_channels} {channels}{pages}{turned}"] += 1
    shown = "; ".join(f"{count} x {kind}" for kind, count in kinds.most_common(4))
    return f"files: {num_opened} of {len(content.records)} opened: {shown}"


def suggest(content: DatasetContent, objects: Objects, masks: MaskMeasurements | None) -> Suggestion:
    """Suggest a method and the values that depend on the data.

    Thin or crowded objects, whose boxes hold much of their neighbors, go to Mask R-CNN with semi-convolutional
    operators, and all others to FCIS: docs/results.md has the measurements behind this.

    Args:
        content: the training set; it has objects.
        objects: of it.
        masks: measurements of its masks, None if it has none.
    """
    options = {"MODEL.ROI_HEADS.NUM_CLASSES": str(len(content.classes))}
    if masks is not None:
        fill, crowding = float(np.median(masks.fill)), float(masks.crowding.mean())
        numbers = (
            f"half of the masks fill at least {fill:.0%} of their boxes, and {crowding:.0%} of the object pixels in a "
            "box are others'"
        )
        if fill < _THIN_FILL or crowding > _CROWDED:
            config = "quick/semiconv/semiconv_R_18_FPN_nuclei.yaml"
            reason = (
                f"{numbers}: semi-convolutional operators separate neighbors in one box. Train "
                "quick/mask_rcnn/mask_rcnn_R_18_FPN_nuclei.yaml first, and start from its weights (MODEL.WEIGHTS)"
            )
        else:
            config = "quick/fcis/fcis_R_18_nuclei.yaml"
            reason = f"{numbers}: FCIS suits compact objects"
    else:
        config, reason = "quick/mask_rcnn/mask_rcnn_R_18_FPN_nuclei.yaml", "there are no masks: a model of boxes"
        options["MODEL.MASK_ON"] = "False"
    short, long = np.median(objects.image_sizes.min(1)), float(objects.image_sizes.max())
    factor = min(1.0, _MAX_SIDE / long)
    size, largest = round(short * factor), math.ceil(long * factor)
    options.update({"INPUT.MIN_SIZE_TRAIN": f"({size},)", "INPUT.MAX_SIZE_TRAIN": str(largest)})
    options.update({"INPUT.MIN_SIZE_TEST": str(size), "INPUT.MAX_SIZE_TEST": str(largest)})
    detections = max(_DEFAULT_DETECTIONS, 10 * math.ceil(1.5 * int(objects.per_image.max()) / 10))
    options["TEST.DETECTIONS_PER_IMAGE"] = str(detections)
    options["MODEL.RPN.POST_NMS_TOPK_TEST"] = str(max(_MIN_PROPOSALS, 2 * detections))
    return Suggestion(config, reason, options)


def _print(suggestion: Suggestion) -> None:
    print(f"suggestion: {suggestion.config}, because {suggestion.reason}")
    words = (f'{key} "{value}"' if "(" in value else f"{key} {value}" for key, value in suggestion.options.items())
    print(f"  {' '.join(words)}")
