"""What a data set contains after reading: normalized records, categories, and what was changed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from detectron2.data import MetadataCatalog

from ..errors import InputError
from .changes import Changes
from .segmentations import segmentation_area

logger = logging.getLogger(__name__)


@dataclass
class DatasetContent:
    """What a data set contains, after normalizing. Users of the records must not change them.

    Attributes:
        name: the registered name.
        records: Detectron2's dataset dicts. ``annotations`` have ``bbox`` with ``bbox_mode``, a contiguous
            ``category_id``, ``iscrowd`` 0 or 1, and valid polygons or a compressed RLE as ``segmentation``.
        classes: category names in the order of the contiguous ids.
        category_ids: the ids in the file, in the order of the contiguous ids.
        has_annotations: False for a test set without labels. The records then have no ``annotations``.
        has_masks: whether any annotation had a segmentation, valid or not.
        has_rle, has_polygons: whether any object's segmentation is an RLE, or polygons; crowds do not count.
        changes: all that was changed, dropped or ignored.
        bad: the part of it that loses or replaces something: what ``DATALOADER.BAD_ANNOTATIONS`` is about.
        json_file: the file in COCO format, or "" if the data set has none.
        coco: the normalized content in COCO format, where it differs from ``json_file``.
    """

    name: str
    records: list[dict]
    classes: list[str]
    category_ids: list[int]
    has_annotations: bool
    has_masks: bool
    has_rle: bool = False
    has_polygons: bool = False
    changes: Changes = field(default_factory=Changes)
    bad: Changes = field(default_factory=Changes)
    json_file: str = ""
    coco: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for record in self.records:
            for annotation in record.get("annotations", ()):
                if annotation.get("iscrowd"):
                    continue  # COCO's crowds are RLE, and its objects polygons; mappers leave crowds out
                kind = type(annotation.get("segmentation"))
                self.has_rle = self.has_rle or kind is dict
                self.has_polygons = self.has_polygons or kind is list
            if self.has_rle and self.has_polygons:
                break

    @property
    def where(self) -> str:
        """The data set's name and file, for messages."""
        return f"Data set {self.name}" + (f", {self.json_file}" if self.json_file else "")

    def report(self, bad_annotations: str) -> None:
        """Log the summary of the changes.

        Raises:
            InputError: there are bad annotations, and ``bad_annotations`` is "stop".
        """
        if self.bad and bad_annotations == "stop":
            raise InputError(f"{self.where}: DATALOADER.BAD_ANNOTATIONS is stop, and there are\n{_indent(self.bad)}")
        if self.changes:
            log = logger.warning if self.bad else logger.info
            log("%s: read with these changes\n%s", self.where, _indent(self.changes))

    def check_trainable(self, needs_masks: bool) -> None:
        """Check that there is something to learn from.

        Args:
            needs_masks: whether an object needs a pixel to be learned from.

        Raises:
            InputError: there is no object other than crowds, or no object has a pixel. The message has the cause.
        """
        if not self.has_annotations:
            raise InputError(
                f"{self.where} has no 'annotations', and cannot be trained on; as a test set it is predicted"
            )
        num_crowds = num_objects = 0
        for record in self.records:
            for annotation in record["annotations"]:
                if annotation.get("iscrowd"):
                    num_crowds += 1
                    continue
                num_objects += 1
                if not needs_masks or _has_pixel(annotation.get("segmentation"), record):
                    return
        if num_objects:
            raise InputError(f"{self.where}: none of the {num_objects} objects has a pixel{self._coordinate_hint()}")
        if num_crowds:
            raise InputError(
                f"{self.where}: all {num_crowds} annotations are crowds (iscrowd 1), which are not trained on. Some "
                "tools write iscrowd 1 for every RLE mask: set it to 0 for single objects"
            )
        cause = f" after reading:\n{_indent(self.changes)}" if self.changes else ": 'annotations' is empty"
        raise InputError(f"{self.where}: there is no object to train on{cause}")

    def _coordinate_hint(self) -> str:
        values = [
            value
            for record in self.records
            for annotation in record["annotations"]
            if isinstance(annotation.get("segmentation"), list)
            for polygon in annotation["segmentation"]
            for value in polygon
        ]
        if values and max(values) <= 1:
            return ": all coordinates are between 0 and 1, expected pixels (multiply x by the width, y by the height)"
        return ""


def _has_pixel(segmentation: list | dict | None, record: dict) -> bool:
    return segmentation is not None and segmentation_area(segmentation, record["height"], record["width"]) > 0


def _indent(changes: Changes) -> str:
    return "\n".join(f"  {line}" for line in changes.summary().splitlines())


def set_classes(name: str, categories: dict[int, str]) -> None:
    """Set the classes and the category ids in the data set's metadata, as Detectron2's ``load_coco_json`` does.

    Args:
        name: the registered name.
        categories: names by id, in the order of the contiguous ids.

    Raises:
        InputError: the metadata has other ones already.
    """
    metadata = MetadataCatalog.get(name)
    ids = {category: index for index, category in enumerate(categories)}
    for key, value in (("thing_classes", list(categories.values())), ("thing_dataset_id_to_contiguous_id", ids)):
        known = metadata.get(key, None)
        if known is None:
            metadata.set(**{key: value})
        elif (list(known) != value) if key == "thing_classes" else (dict(known) != value):
            raise InputError(
                f"Data set {name}: its file has {key} {str(value)[:200]}, but it is registered with "
                f"{str(known)[:200]}: expected the same"
            )
