"""``bbox``."""

from __future__ import annotations

from ..case import Case, edited, refused, trains
from ..coco_set import HALF, HEIGHT, ONE, WIDTH, put, rle
from ..run import ALL_MODELS

NAN = float("nan")
SIX, TWELVE = r"box.*\b6\b", r"box.*\b12\b"
NO_MASKS = ("MODEL.MASK_ON", "False")
ONE_MODEL = ("mask_rcnn",)


def xyxy(annotation: dict) -> list[float]:
    x, y, width, height = annotation["bbox"]
    return [x, y, x + width, y + height]


def normalized(annotation: dict) -> list[float]:
    x, y, width, height = annotation["bbox"]
    return [x / WIDTH, y / HEIGHT, width / WIDTH, height / HEIGHT]


CASES = [
    # --- the mask has the box ---
    Case("box_missing", edited(put("bbox", ...)), trains(12, TWELVE), models=ALL_MODELS),
    Case("box_missing_some", edited(put("bbox", ..., HALF)), trains(12, SIX)),
    Case("box_missing_rle", edited(put("segmentation", rle), put("bbox", ..., HALF)), trains(12, SIX)),
    Case("box_null", edited(put("bbox", None, HALF)), trains(12, SIX)),
    Case("box_empty", edited(put("bbox", [], HALF)), trains(12, SIX)),
    Case("box_zeros_all", edited(put("bbox", [0, 0, 0, 0])), trains(12, TWELVE), models=ALL_MODELS),
    Case("box_zeros_some", edited(put("bbox", [0, 0, 0, 0], HALF)), trains(12, SIX)),
    Case("box_zero_width", edited(put("bbox", lambda a: [*a["bbox"][:2], 0, a["bbox"][3]], HALF)), trains(12, SIX)),
    Case("box_negative", edited(put("bbox", lambda a: [*a["bbox"][:2], -20, -20], HALF)), trains(12, SIX)),
    Case("box_yxhw", edited(put("bbox", lambda a: [a["bbox"][i] for i in (1, 0, 3, 2)])), trains(12, "box")),
    Case("box_xyxy", edited(put("bbox", xyxy)), trains(12, r"box.*\b1[012]\b", r"x1, y1|xyxy"), models=ALL_MODELS),
    Case("box_xyxy_stop", edited(put("bbox", xyxy)), refused("box", r"\b1\b"),
         options=("DATALOADER.BAD_ANNOTATIONS", "stop")),
    Case("box_normalized", edited(put("bbox", normalized)), trains(12, TWELVE)),
    Case("box_nan", edited(put("bbox", lambda a: [NAN, *a["bbox"][1:]], HALF)), trains(12, SIX)),
    Case("box_infinite", edited(put("bbox", [0, 0, float("inf"), 5], HALF)), trains(12, SIX)),
    Case("box_text_numbers", edited(put("bbox", lambda a: [str(v) for v in a["bbox"]], HALF)), trains(12)),
    Case("box_text", edited(put("bbox", "10 10 20 20", HALF)), trains(12, SIX)),
    Case("box_three_numbers", edited(put("bbox", lambda a: a["bbox"][:3], HALF)), trains(12, SIX)),
    Case("box_five_numbers", edited(put("bbox", lambda a: [*a["bbox"], 0.3], HALF)), trains(12, SIX)),
    Case("box_outside", edited(put("bbox", [500, 500, 20, 20], HALF)), trains(12, SIX)),
    Case("box_dict", edited(put("bbox", lambda a: dict(zip("xywh", a["bbox"])), HALF)), trains(12, SIX)),
    Case("box_nested", edited(put("bbox", lambda a: [a["bbox"]], HALF)), trains(12, SIX)),
    Case("box_larger_than_image", edited(put("bbox", [-50, -50, 400, 400], HALF)), trains(12, SIX)),
    Case("box_huge_number", edited(put("bbox", [10**400, 1, 5, 5], ONE)), trains(12, "box")),
    Case("box_slightly_off", edited(put("bbox", lambda a: [a["bbox"][0] + 1, *a["bbox"][1:]])), trains(12)),
    # --- boxes without masks ---
    Case("box_only_model", edited(put("segmentation", ...)), trains(12), options=NO_MASKS, models=ONE_MODEL),
    Case("box_only_seg_empty", edited(put("segmentation", [])), trains(12), options=NO_MASKS, models=ONE_MODEL),
    Case("box_only_seg_mixed", edited(put("segmentation", ..., HALF)), trains(12), options=NO_MASKS, models=ONE_MODEL),
    Case("box_only_seg_bad", edited(put("segmentation", {"size": [1, 2], "counts": "garbage!!"}, HALF)), trains(12),
         options=NO_MASKS, models=ONE_MODEL),
    Case("box_only_seg_text", edited(put("segmentation", "none")), trains(12), options=NO_MASKS, models=ONE_MODEL),
    Case("box_only_zeros_some", edited(put("segmentation", ...), put("bbox", [5, 5, 0, 0], HALF)), trains(6, SIX),
         options=NO_MASKS, models=ONE_MODEL),
    Case("box_only_missing_all", edited(put("segmentation", ...), put("bbox", ...)), refused("box"),
         options=NO_MASKS, models=ONE_MODEL),
    Case("box_only_zeros_all", edited(put("segmentation", ...), put("bbox", [0, 0, 0, 0])), refused("box"),
         options=NO_MASKS, models=ONE_MODEL),
    Case("box_only_missing_with_masks", edited(put("bbox", ..., HALF)), trains(12, SIX), options=NO_MASKS,
         models=ONE_MODEL),
]  # fmt: skip
