"""Several data sets in one run, and test sets without labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..case import Case, Inputs, Trains, refused, trains
from ..coco_set import Content, Edit, put, rle, write_set
from ..run import ALL_MODELS


def two(edit: Edit, train: tuple[str, ...] = ("mine",), test: tuple[str, ...] = ("other",), **more) -> Callable:
    """Write the base set as "mine" and, after ``edit``, as "other"."""

    def build(folder: Path) -> Inputs:
        write_set(folder)
        write_set(folder, edit, name="b.json")
        sets = (("mine", folder / "a.json", folder / "images"), ("other", folder / "b.json", folder / "images"))
        return Inputs(sets, train, test, **more)

    return build


def nothing(content: Content) -> None:
    """No change."""


def without_annotations(content: Content) -> None:
    del content["annotations"]


def null_annotations(content: Content) -> None:
    content["annotations"] = None


def empty_annotations(content: Content) -> None:
    content["annotations"] = []


def swapped_names(content: Content) -> None:
    content["categories"] = [{"id": 1, "name": "c2"}, {"id": 2, "name": "c1"}]


def swapped_ids(content: Content) -> None:
    """The same names, with the ids the other way round, in the annotations too."""
    content["categories"] = [{"id": 2, "name": "c1"}, {"id": 1, "name": "c2"}]
    for annotation in content["annotations"]:
        annotation["category_id"] = 3 - annotation["category_id"]


def other_names(content: Content) -> None:
    content["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]


def one_name_fewer(content: Content) -> None:
    content["categories"].pop()
    content["annotations"] = [one for one in content["annotations"] if one["category_id"] == 1]


def other_order(content: Content) -> None:
    """The same ids and names, listed in another order."""
    content["categories"].reverse()


def shifted_ids(content: Content) -> None:
    for category in content["categories"]:
        category["id"] += 10
    for annotation in content["annotations"]:
        annotation["category_id"] += 10


BOTH = ("mine", "other")
UNLABELED = Trains(12, evaluates=False)

CASES = [
    Case("test_names_swapped", two(swapped_names), refused("mine", "other", "c1", "c2")),
    Case("test_names_swapped_by_ids", two(swapped_ids), refused("mine", "other", "c1", "c2")),
    Case("test_names_different", two(other_names), refused("mine", "other", "dog", "c1")),
    Case("test_names_fewer", two(one_name_fewer), refused("other")),
    Case("test_names_in_other_order", two(other_order), trains(12)),
    Case("test_ids_shifted", two(shifted_ids), trains(12)),
    Case("train_names_different", two(other_names, BOTH, ("mine",)), refused("mine", "other", "dog", "c1")),
    Case("train_names_swapped", two(swapped_names, BOTH, ("mine",)), refused("mine", "other")),
    Case("train_two_sets", two(nothing, BOTH, ("mine",)), trains(24, counted=12)),
    Case("train_two_sets_ids_shifted", two(shifted_ids, BOTH, ("mine",)), trains(24, counted=12)),
    Case("train_two_sets_one_rle", two(put("segmentation", rle), BOTH, ("mine",)), trains(24, "bitmask", counted=12),
         options=("INPUT.MASK_FORMAT", "polygon")),
    Case("train_set_twice", two(nothing, ("mine", "mine"), ("mine",)), Trains(None, 12)),
    Case("test_two_sets", two(nothing, ("mine",), BOTH), trains(12)),
    Case("test_not_registered", two(nothing, ("mine",), ("othr",)), refused("othr", "other")),
    Case("test_set_empty", two(nothing, ("mine",), ()), Trains(12, evaluates=False)),
    Case("test_without_annotations", two(without_annotations), UNLABELED, models=ALL_MODELS),
    Case("test_annotations_null", two(null_annotations), UNLABELED),
    Case("test_annotations_empty", two(empty_annotations), UNLABELED),
    Case("test_without_annotations_eval_only", two(without_annotations), UNLABELED, flags=("--eval-only",),
         weights=True),
    Case("test_without_annotations_and_with", two(without_annotations, test=BOTH), trains(12)),
    Case("test_crowds_only", two(put("iscrowd", 1)), trains(12, counted=0)),
    Case("test_short_polygons", two(put("segmentation", [[1, 1, 5, 5]], slice(0, 3))), trains(12, counted=9)),
    Case("test_set_bad_stop", two(put("segmentation", [[1, 1, 5, 5]], slice(0, 3))), refused("other", "point"),
         options=("DATALOADER.BAD_ANNOTATIONS", "stop")),
]  # fmt: skip
