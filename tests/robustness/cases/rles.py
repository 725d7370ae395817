"""``segmentation`` as run-length encoding, compressed and not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..case import Case, edited, refused, trains
from ..coco_set import HALF, HEIGHT, ONE, WIDTH, put, rle, rle_counts, rle_list
from ..run import ALL_MODELS

STOP = ("DATALOADER.BAD_ANNOTATIONS", "stop")
ALL = slice(None)
PIXELS = HEIGHT * WIDTH
SIX = r"\b6\b"


def of(change: Callable[[dict], Any], which: slice | int = ONE, form: Callable = rle) -> Callable:
    """Write all masks in ``form``, and change the RLE objects of the annotations ``which``."""
    return edited(put("segmentation", form), put("segmentation", lambda a: change(dict(a["segmentation"])), which))


def counts(value: Any, which: slice | int = ONE, form: Callable = rle) -> Callable:
    """Replace ``counts``; a function is called with the right ones."""
    return of(lambda r: {**r, "counts": value(r["counts"]) if callable(value) else value}, which, form)


def size(value: Any, which: slice | int = HALF) -> Callable:
    return of(lambda r: {**r, "size": value}, which)


NAMES_4 = r"\b1\b.*\b4\b"

CASES = [
    Case("rle_text", edited(put("segmentation", rle)), trains(12), options=("INPUT.MASK_FORMAT", "bitmask")),
    Case("rle_text_polygon_format", edited(put("segmentation", rle)), trains(12, "bitmask"),
         options=("INPUT.MASK_FORMAT", "polygon")),
    Case("rle_list", edited(put("segmentation", rle_list)), trains(12)),
    Case("rle_list_polygon_format", edited(put("segmentation", rle_list)), trains(12, "bitmask"),
         options=("INPUT.MASK_FORMAT", "polygon")),
    Case("polygon_and_rle", edited(put("segmentation", rle, slice(1, None, 2))), trains(12, "bitmask"),
         options=("INPUT.MASK_FORMAT", "polygon"), models=ALL_MODELS),
    Case("polygon_and_rle_list", edited(put("segmentation", rle_list, slice(1, None, 2))), trains(12, "bitmask"),
         options=("INPUT.MASK_FORMAT", "polygon")),
    Case("polygon_and_rle_bitmask", edited(put("segmentation", rle, slice(1, None, 2))), trains(12),
         options=("INPUT.MASK_FORMAT", "bitmask")),
    Case("rle_garbage", counts("garbage!!"), trains(11, NAMES_4), models=ALL_MODELS),
    Case("rle_garbage_stop", counts("garbage!!"), refused(r"\b4\b", "RLE"), options=STOP),
    Case("rle_garbage_all", counts("garbage!!", ALL), refused("RLE")),
    Case("rle_cut", counts(lambda c: c[: len(c) // 2]), trains(11, NAMES_4), models=ALL_MODELS),
    Case("rle_cut_one_character", counts(lambda c: c[:-1]), trains(11, NAMES_4)),
    Case("rle_cut_process", counts(lambda c: c[: len(c) // 2]), trains(11, NAMES_4), process=True),
    Case("rle_cut_all", counts(lambda c: c[: len(c) // 2], ALL), refused("RLE")),
    Case("rle_cut_eval_only", counts(lambda c: c[: len(c) // 2]), trains(11, NAMES_4), flags=("--eval-only",),
         weights=True),
    Case("rle_longer", counts(lambda c: c + "X5"), trains(11, NAMES_4)),
    Case("rle_text_random", counts("o" * 60), trains(11, NAMES_4)),
    Case("rle_text_not_ascii", counts("é\u4e2d\U0001f600"), trains(11, NAMES_4)),
    Case("rle_text_nul", counts("\0" * 9), trains(11, NAMES_4)),
    Case("rle_text_spaces", counts(lambda c: f" {c}\n"), trains(11, NAMES_4)),
    Case("rle_text_empty", counts(""), trains(11, NAMES_4)),
    Case("rle_null", counts(None), trains(11, NAMES_4)),
    Case("rle_number", counts(5), trains(11, NAMES_4)),
    Case("rle_no_counts", of(lambda r: {"size": r["size"]}), trains(11, NAMES_4)),
    Case("rle_list_empty", counts([], form=rle_list), trains(11, NAMES_4)),
    Case("rle_list_long", counts(lambda c: [*c, 50, 50], form=rle_list), trains(11, NAMES_4)),
    Case("rle_list_short", counts(lambda c: c[:-1], form=rle_list), trains(11, NAMES_4)),
    Case("rle_list_negative", counts(lambda c: [c[0], -c[1], *c[2:]], form=rle_list), trains(11, NAMES_4)),
    Case("rle_list_negative_sum", counts([PIXELS + 100, -100], form=rle_list), trains(11, NAMES_4)),
    Case("rle_list_floats", counts(lambda c: [float(v) for v in c], ALL, rle_list), trains(12)),
    Case("rle_list_halves", counts(lambda c: [c[0] + 0.5, c[1] - 0.5, *c[2:]], form=rle_list), trains(11, NAMES_4)),
    Case("rle_list_nan", counts([float("nan"), 10], form=rle_list), trains(11, NAMES_4)),
    Case("rle_list_text", counts(lambda c: [str(v) for v in c], form=rle_list), trains(None)),
    Case("rle_list_huge", counts([2**63, 5], form=rle_list), trains(11, NAMES_4)),
    Case("rle_list_nested", counts(lambda c: [c], form=rle_list), trains(11, NAMES_4)),
    Case("rle_zeros_some", edited(put("segmentation", rle_list), put("segmentation",
         {"size": [HEIGHT, WIDTH], "counts": [PIXELS]}, HALF)), trains(6, SIX)),
    Case("rle_zeros_all", edited(put("segmentation", {"size": [HEIGHT, WIDTH], "counts": [PIXELS]})),
         refused("pixel")),
    Case("rle_ones_one", edited(put("segmentation", {"size": [HEIGHT, WIDTH], "counts": [0, PIXELS]}, ONE)),
         trains(12)),
    Case("rle_size_swapped", size([WIDTH, HEIGHT]), trains(6, SIX)),
    Case("rle_size_swapped_all", size([WIDTH, HEIGHT], ALL), refused("size")),
    Case("rle_size_missing", of(lambda r: {"counts": r["counts"]}, HALF), trains(None)),
    Case("rle_size_other", size([32, 48]), trains(6, SIX)),
    Case("rle_size_text", size([str(HEIGHT), str(WIDTH)]), trains(None)),
    Case("rle_size_one_number", size([HEIGHT]), trains(6, SIX)),
    Case("rle_size_null", size(None), trains(None)),
    Case("rle_size_zero", size([0, 0]), trains(6, SIX)),
    Case("rle_size_huge", size([2**31, 2**31]), trains(6, SIX)),
    Case("rle_in_list", edited(put("segmentation", lambda a: [rle(a)])), refused("polygon|segmentation")),
    Case("rle_crowd_garbage", edited(put("segmentation", rle), put("iscrowd", 1, ONE),
         put("segmentation", {"size": [HEIGHT, WIDTH], "counts": "garbage!!"}, ONE)), trains(11, NAMES_4)),
    Case("rle_kaggle_string", counts("1290 6 55 12 51 14"), trains(11, NAMES_4)),
    Case("rle_counts_of_polygon", edited(put("segmentation", lambda a: rle_counts(a), HALF)), trains(6, SIX)),
]  # fmt: skip
