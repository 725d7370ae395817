"""Checks across data sets before training: categories that contradict each other, files listed twice, image kinds."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence

from detectron2.config import CfgNode
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN

from ..data.content import DatasetContent
from ..data.exif_frame import files_with_turned_annotations
from ..data.image_reading import ImageInfo, ImageReader
from ..data.statistics import Objects, evenly_spread
from ..errors import InputError, first_few
from ..validation import registry_name_is_a
from .model_info import ModelInfo
from .size_checks import shrunk_warnings, size_warnings

logger = logging.getLogger(__name__)
_NUM_SAMPLED = 8  # images opened per data set


def check_contents(
    cfg: CfgNode, train: Sequence[DatasetContent], test: Sequence[DatasetContent]
) -> dict[str, set[int]]:
    """Check data sets against each other and against the config.

    Args:
        cfg: the config of the model.
        train: the data sets to train on.
        test: the data sets to evaluate on.

    Returns:
        Bits per sample of a sample of images, by the name of the data set.

    Raises:
        InputError: categories differ in name or order, or a sampled image cannot be read as the config says.
    """
    contents = list({content.name: content for content in (*train, *test)}.values())
    _check_same_categories(contents)
    for content in contents:
        without = [str(record["image_id"]) for record in content.records if not record.get("file_name")]
        if without:
            raise InputError(f"{content.where}: images without 'file_name', the path of the file: {first_few(without)}")
        _warn_of_repeated_files(content)
    _warn_of_shared_files(train, test)
    reader = ImageReader.from_cfg(cfg)
    depths = {content.name: _check_sample(cfg, content, reader) for content in contents}
    if reader.options.scaling == "auto":
        _warn_of_mixed_depths(depths)
    for content in test:
        if not content.has_annotations:
            logger.warning("%s has no 'annotations': predictions are written, but nothing is evaluated", content.where)
    _warn_of_limits(cfg, train, test)
    return depths


def _warn_of_mixed_depths(depths: dict[str, set[int]]) -> None:
    """Warn if some images have 8 bits and others more: only the latter are scaled."""
    all_depths = set().union(*depths.values())
    if all_depths and min(all_depths) <= 8 < max(all_depths):
        shown = "; ".join(f"{name} {' and '.join(map(str, sorted(d)))}" for name, d in depths.items() if d)
        logger.warning(
            "images have different bit depths (%s), and INPUT.SCALING auto scales only those above 8 bits: a model "
            "trained on one kind is worse on the other. Set INPUT.SCALING percentile for training and evaluation",
            shown,
        )  # fmt: skip


def _check_same_categories(contents: Sequence[DatasetContent]) -> None:
    """Check that all data sets name the same categories in the same order: models know only their numbers."""
    for content in contents[1:]:
        first = contents[0]
        if content.classes == first.classes:
            continue
        pairs = list(zip(first.classes, content.classes))
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        names = [repr(classes[at]) if at < len(classes) else "nothing" for classes in (first.classes, content.classes)]
        same = "the same names in another order" if sorted(first.classes) == sorted(content.classes) else "other names"
        raise InputError(
            f"data sets {first.name} and {content.name} have {same}: category {at + 1} by id is {names[0]} in "
            f"{first.name} and {names[1]} in {content.name}. A model knows categories by their position: give them "
            "equal ids and names"
        )


def _warn_of_repeated_files(content: DatasetContent) -> None:
    counts = Counter(record.get("file_name") for record in content.records if record.get("file_name"))
    repeated = [os.path.basename(path) for path, count in counts.items() if count > 1]
    if repeated:
        logger.warning(
            "%s: %d files are listed as several images, each with a part of the objects, so that the other objects "
            "count as background: %s. Merge these images into one",
            content.where, len(repeated), first_few(repeated),
        )  # fmt: skip


def _warn_of_shared_files(train: Iterable[DatasetContent], test: Iterable[DatasetContent]) -> None:
    test = list(test)
    for one in train:
        trained = {record.get("file_name") for record in one.records} - {None}
        for other in test:
            shared = sum(record.get("file_name") in trained for record in other.records)
            if shared and other.name != one.name:
                logger.warning(
                    "%d of the %d images of %s are in %s as well: the evaluation is too good", shared,
                    len(other.records), other.name, one.name,
                )  # fmt: skip


def _check_sample(cfg: CfgNode, content: DatasetContent, reader: ImageReader) -> set[int]:
    """Open a few images: their size against the data set's, and one as the loaders will read it.

    Returns:
        Their bits per sample.
    """
    files = [record for record in content.records if record.get("file_name") and "://" not in record["file_name"]]
    infos: list[tuple[dict, ImageInfo]] = []
    for record in (files[i] for i in evenly_spread(len(files), _NUM_SAMPLED)):
        try:
            info = reader.describe(record["file_name"])
        except OSError:
            continue  # The loaders name it, or skip it with DATALOADER.SKIP_BAD_IMAGES.
        infos.append((record, info))
        size = record["width"], record["height"]
        if size == (info.width, info.height):
            continue
        hint = ""
        if size == (info.raw_width, info.raw_height):
            hint = f": the annotations were drawn before its EXIF orientation {info.orientation}; set INPUT.EXIF ignore"
        elif size == (info.height, info.width):
            hint = ": width and height are swapped"
        raise InputError(
            f"{content.where}: image {record['file_name']} is {info.width} x {info.height} pixels, expected "
            f"{size[0]} x {size[1]}{hint}"
        )
    turned = files_with_turned_annotations(infos, reader)
    if turned:
        logger.warning(
            "%s: the annotations of %d of %d sampled images seem to be drawn before their EXIF orientation, and would "
            "be trained on in the wrong place: %s. Look at them; if so, set INPUT.EXIF ignore",
            content.where, len(turned), len(infos), first_few(turned),
        )  # fmt: skip
    if infos:
        with contextlib.suppress(OSError):
            reader(infos[0][0]["file_name"], cfg.INPUT.FORMAT)  # says once how such images are scaled
    return {info.bit_depth for _, info in infos}


def _warn_of_limits(cfg: CfgNode, train: Sequence[DatasetContent], test: Sequence[DatasetContent]) -> None:
    """Warn if there are images with more objects than a model can return."""
    limits = {"TEST.DETECTIONS_PER_IMAGE": cfg.TEST.DETECTIONS_PER_IMAGE}
    if cfg.MODEL.META_ARCHITECTURE == "InstanceFCN":
        limits["MODEL.INSTANCE_FCN.POST_NMS_TOPK"] = cfg.MODEL.INSTANCE_FCN.POST_NMS_TOPK
    elif registry_name_is_a(PROPOSAL_GENERATOR_REGISTRY, cfg.MODEL.PROPOSAL_GENERATOR.NAME, RPN):
        limits["MODEL.RPN.POST_NMS_TOPK_TEST"] = cfg.MODEL.RPN.POST_NMS_TOPK_TEST
    objects = {content.name: Objects.from_records(content.records) for content in (*train, *test)}
    for content in {content.name: content for content in (*train, *test)}.values():
        counts = objects[content.name].per_image
        for key, limit in limits.items():
            over = int((counts > limit).sum())
            if over:
                logger.warning(
                    "%s: %d of %d images have more objects than %s %d (up to %d), and can never be found completely",
                    content.where, over, len(counts), key, limit, max(counts),
                )  # fmt: skip
    for content in train:
        for warning in size_warnings(cfg, objects[content.name], content.name):
            logger.warning(warning)
    info = ModelInfo.of_training(cfg, train) if train else ModelInfo.of_run(cfg)
    for content in test:
        sizes = objects[content.name].image_sizes
        for warning in shrunk_warnings(cfg, info and info.scale, sizes, content.name):
            logger.warning(warning)
