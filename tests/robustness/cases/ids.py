"""Ids of categories, images and annotations, and names of categories."""

from __future__ import annotations

from ..case import Case, edited, refused, trains
from ..coco_set import HALF, ONE, Content, map_ids, put, put_image
from ..run import ALL_MODELS


def change_categories(change):
    """Return a function that replaces the list of categories."""

    def edit(content: Content) -> None:
        content["categories"] = change(content["categories"])

    return edited(edit)


def names(*values) -> object:
    return change_categories(lambda categories: [{**c, "name": v} for c, v in zip(categories, values)])


def copy_first_annotation(content: Content) -> None:
    content["annotations"][1]["id"] = content["annotations"][0]["id"]


CASES = [
    # --- categories ---
    Case("category_ids_from_0", edited(map_ids("category", lambda i: i - 1)), trains(12)),
    Case("category_ids_from_90", edited(map_ids("category", lambda i: i + 89)), trains(12), models=ALL_MODELS),
    Case("category_ids_with_gaps", edited(map_ids("category", lambda i: 1000 ** i)), trains(12)),
    Case("category_ids_negative", edited(map_ids("category", lambda i: -i)), trains(12)),
    Case("category_ids_text", edited(map_ids("category", str)), trains(12, "categor")),
    Case("category_ids_text_in_categories", change_categories(lambda c: [{**x, "id": str(x["id"])} for x in c]),
         trains(12)),
    Case("category_ids_text_in_annotations", edited(put("category_id", lambda a: str(a["category_id"]))), trains(12)),
    Case("category_ids_floats", edited(map_ids("category", float)), trains(12)),
    Case("category_ids_words", edited(map_ids("category", lambda i: "ab"[i - 1])), refused("category", "'id'")),
    Case("category_ids_halves", edited(map_ids("category", lambda i: i + 0.5)), refused("category", "'id'")),
    Case("category_ids_twice", change_categories(lambda c: [{**x, "id": 1} for x in c]), refused("category id")),
    Case("category_id_missing", change_categories(lambda c: [{"name": x["name"]} for x in c]), refused("category")),
    Case("category_ids_true", edited(put("category_id", True, ONE)), refused(r"annotation 4\b", "category")),
    Case("category_unknown", edited(put("category_id", 7, ONE)), refused(r"annotation 4\b", "category", "7")),
    Case("category_null", edited(put("category_id", None, ONE)), refused(r"annotation 4\b", "category")),
    Case("category_missing_in_annotation", edited(put("category_id", ..., ONE)), refused("annotation 4", "category")),
    Case("category_list_in_annotation", edited(put("category_id", [1], ONE)), refused("annotation 4", "category")),
    Case("category_names_equal", names("cell", "cell"), trains(12, "cell")),
    Case("category_name_empty", names("", "cell"), trains(12)),
    Case("category_name_null", names(None, "cell"), refused("category 1", "name")),
    Case("category_name_number", names(5, "cell"), refused("category 1", "name")),
    Case("category_name_missing", change_categories(lambda c: [{"id": x["id"]} for x in c]), refused("name")),
    Case("category_names_unicode", names("細胞", "é\u0301 "), trains(12)),
    Case("categories_without_objects", change_categories(lambda c: [*c, {"id": 3, "name": "rare"}]), trains(12),
         options=("MODEL.ROI_HEADS.NUM_CLASSES", "3")),
    Case("categories_more_than_classes", change_categories(lambda c: [*c, {"id": 3, "name": "rare"}]),
         refused("NUM_CLASSES", "3 categories")),
    Case("categories_empty", change_categories(lambda c: []), refused("categories")),
    Case("categories_null", change_categories(lambda c: None), refused("categories")),
    Case("categories_text", change_categories(lambda c: ["cell", "dirt"]), refused("categories")),
    # --- images ---
    Case("image_ids_text", edited(map_ids("image", "img{}".format)), trains(12), models=ALL_MODELS),
    Case("image_ids_file_names", edited(map_ids("image", "{}.png".format)), trains(12)),
    Case("image_ids_number_text", edited(map_ids("image", str)), trains(12)),
    Case("image_ids_number_text_in_images", edited(put_image("id", lambda i: str(i["id"]))), trains(12)),
    Case("image_ids_number_text_in_annotations", edited(put("image_id", lambda a: str(a["image_id"]))), trains(12)),
    Case("image_ids_leading_zeros", edited(map_ids("image", "{:04d}".format)), trains(12)),
    Case("image_ids_negative", edited(map_ids("image", lambda i: -i)), trains(12)),
    Case("image_ids_from_0", edited(map_ids("image", lambda i: i - 1)), trains(12)),
    Case("image_ids_floats", edited(map_ids("image", float)), trains(12)),
    Case("image_ids_large", edited(map_ids("image", lambda i: 10**15 + i)), trains(12)),
    Case("image_id_null", edited(put_image("id", None, 1)), refused("image", "'id'")),
    Case("image_id_missing", edited(put_image("id", ..., 1)), refused("image", "'id'")),
    Case("image_id_twice", edited(put_image("id", 1)), refused("image id", "1")),
    Case("image_id_unknown_one", edited(put("image_id", 99, ONE)), trains(11, r"image.*\b1\b.*\b4\b")),
    Case("image_id_unknown_all", edited(put("image_id", 99)), refused("image")),
    Case("image_id_null_one", edited(put("image_id", None, ONE)), trains(11, r"image.*\b1\b.*\b4\b")),
    Case("image_id_unknown_stop", edited(put("image_id", 99, ONE)), refused("image", r"\b4\b"),
         options=("DATALOADER.BAD_ANNOTATIONS", "stop")),
    # --- annotations ---
    Case("annotation_ids_missing", edited(put("id", ...)), trains(12, "id")),
    Case("annotation_ids_missing_some", edited(put("id", ..., HALF)), trains(12, r"id.*\b6\b")),
    Case("annotation_ids_null", edited(put("id", None)), trains(12, "id")),
    Case("annotation_ids_equal", edited(put("id", 1)), trains(12, "id"), models=ALL_MODELS),
    Case("annotation_ids_two_equal", edited(copy_first_annotation), trains(12, "id")),
    Case("annotation_ids_from_0", edited(put("id", lambda a: a["id"] - 1)), trains(12, r"\b0\b")),
    Case("annotation_ids_text", edited(put("id", lambda a: f"a{a['id']}")), trains(12, "id")),
    Case("annotation_ids_floats", edited(put("id", lambda a: float(a["id"]))), trains(12)),
    Case("annotation_ids_negative", edited(put("id", lambda a: -a["id"])), trains(12)),
    Case("annotation_ids_large", edited(put("id", lambda a: 2**60 + a["id"])), trains(12)),
    Case("annotation_ids_list", edited(put("id", [1], HALF)), trains(12, "id")),
]  # fmt: skip
