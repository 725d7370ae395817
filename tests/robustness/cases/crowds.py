"""``iscrowd`` and ``area``."""

from __future__ import annotations

from ..case import Case, edited, refused, trains
from ..coco_set import HALF, ONE, put, rle, rle_list
from ..run import ALL_MODELS

NAN, INFINITY = float("nan"), float("inf")
STOP = ("DATALOADER.BAD_ANNOTATIONS", "stop")
SIX = r"\b6\b"

CASES = [
    # --- iscrowd ---
    Case("crowd_all", edited(put("iscrowd", 1)), refused("crowd", r"\b12\b")),
    Case("crowd_all_rle_list", edited(put("segmentation", rle_list), put("iscrowd", 1)), refused("crowd"),
         models=ALL_MODELS),
    Case("crowd_all_true", edited(put("iscrowd", True)), refused("crowd")),
    Case("crowd_one", edited(put("iscrowd", 1, ONE)), trains(11)),
    Case("crowd_rle_some", edited(put("segmentation", rle_list, HALF), put("iscrowd", 1, HALF)), trains(6)),
    Case("crowd_null_some", edited(put("iscrowd", None, HALF)), trains(12, "iscrowd.*" + SIX), models=ALL_MODELS),
    Case("crowd_null_all", edited(put("iscrowd", None)), trains(12, r"iscrowd.*\b12\b")),
    Case("crowd_missing", edited(put("iscrowd", ...)), trains(12, r"iscrowd.*\b12\b"), models=ALL_MODELS),
    Case("crowd_missing_stop", edited(put("iscrowd", ...)), trains(12), options=STOP),
    Case("crowd_text_0", edited(put("iscrowd", "0")), trains(12, r"iscrowd.*\b12\b")),
    Case("crowd_text_1_some", edited(put("iscrowd", "1", HALF)), trains(6, "iscrowd.*" + SIX)),
    Case("crowd_false", edited(put("iscrowd", False)), trains(12)),
    Case("crowd_true_some", edited(put("iscrowd", True, HALF)), trains(6)),
    Case("crowd_1.0_some", edited(put("iscrowd", 1.0, HALF)), trains(6)),
    Case("crowd_0.0", edited(put("iscrowd", 0.0)), trains(12)),
    Case("crowd_minus_1_some", edited(put("iscrowd", -1, HALF)), trains(6, "iscrowd.*" + SIX)),
    Case("crowd_yes_some", edited(put("iscrowd", "yes", HALF)), trains(6, "iscrowd.*" + SIX)),
    Case("crowd_list_some", edited(put("iscrowd", [0], HALF)), trains(6, "iscrowd.*" + SIX)),
    Case("crowd_nan_one", edited(put("iscrowd", NAN, ONE)), trains(11, r"iscrowd.*\b1\b.*\b4\b")),
    Case("crowd_minus_1_stop", edited(put("iscrowd", -1, ONE)), refused("iscrowd", r"\b4\b"), options=STOP),
    # --- area ---
    Case("area_missing", edited(put("area", ...)), trains(12, r"area.*\b12\b"), models=ALL_MODELS),
    Case("area_missing_rle", edited(put("segmentation", rle), put("area", ...)), trains(12, "area")),
    Case("area_missing_boxes_only", edited(put("area", ...), put("segmentation", ...)), trains(12, "area"),
         options=("MODEL.MASK_ON", "False"), models=("mask_rcnn",)),
    Case("area_null_some", edited(put("area", None, HALF)), trains(12, "area.*" + SIX)),
    Case("area_nan", edited(put("area", NAN, HALF)), trains(12, "area.*" + SIX)),
    Case("area_infinite", edited(put("area", INFINITY, HALF)), trains(12, "area.*" + SIX)),
    Case("area_text", edited(put("area", "393.9", HALF)), trains(12, "area.*" + SIX)),
    Case("area_negative", edited(put("area", -5, HALF)), trains(12, "area.*" + SIX)),
    Case("area_zero", edited(put("area", 0, HALF)), trains(12, "area.*" + SIX)),
    Case("area_huge", edited(put("area", 1e15, HALF)), trains(12)),
    Case("area_list", edited(put("area", [1], HALF)), trains(12, "area.*" + SIX)),
]  # fmt: skip
