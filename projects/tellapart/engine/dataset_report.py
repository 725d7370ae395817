"""``tellapart check``: read data sets as training does, describe them, and suggest a method and settings."""

from __future__ import annotations

import logging
import shlex
import sys
from collections import Counter
from collections.abc import Sequence

from detectron2.config import CfgNode

from ..data.content import DatasetContent
from ..data.data_argument import register_argument
from ..data.image_reading import ImageReader
from ..data.reader import read_dataset
from ..data.statistics import MaskMeasurements, Objects, evenly_spread, measure_gray_spans, measure_masks, report
from ..errors import InputError, print_error
from .checkpoint import check_weights
from .config_checks import check_datasets, load_config
from .own_settings import Settings, choose_method, choose_settings
from .trainer import EVALUATORS
from .value_checks import check_values

_NUM_OPENED = 16  # images whose headers are described
_CPU = ("MODEL.DEVICE", "cpu")  # checking needs no GPU


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
            objects, masks = measured[names[0]]
            method, reason = choose_method(masks)
            spans = measure_gray_spans(first.records)
            settings = choose_settings(first.classes, objects, masks is not None, method, gray_spans=spans)
            _print(data[0], reason, settings)
            more = [str(word) for pair in settings.options.items() for word in pair]
            cfg = load_config(settings.base, [*_CPU, *more, "MODEL.WEIGHTS", "", *opts])
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


def _print(data: str, reason: str, settings: Settings) -> None:
    print(f"suggestion: {settings.method}, because {reason}")
    print(f"  tellapart train --train {shlex.quote(data)} --method {settings.method}")
    words = (f"{key} {shlex.quote(str(value))}" for key, value in settings.options.items())
    print(f"  which trains {settings.base} with {' '.join(words)}")
