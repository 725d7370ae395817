"""The JSON file as text, and files of other tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..case import Case, edited, refused, trains
from ..coco_set import ONE, Content, base_content, put, write_images


def raw(change: Callable[[str], str | bytes]) -> Callable[[Path], None]:
    """Write the base set's JSON text after ``change``."""

    def build(folder: Path) -> None:
        write_images(folder)
        data = change(json.dumps(base_content()))
        (folder / "a.json").write_bytes(data if isinstance(data, bytes) else data.encode())

    return build


def content(value: Any) -> Callable[[Path], None]:
    return raw(lambda _: json.dumps(value))


def top(key: str, value: Any) -> Callable[[Path], None]:
    def edit(content: Content) -> None:
        if value is ...:
            del content[key]
        else:
            content[key] = value

    return edited(edit)


def add_entry(key: str, value: Any) -> Callable[[Path], None]:
    return edited(lambda content: content[key].append(value))


def png_as_json(folder: Path) -> None:
    write_images(folder)
    (folder / "a.json").write_bytes((folder / "images" / "1.png").read_bytes())


def folder_as_json(folder: Path) -> None:
    write_images(folder)
    (folder / "a.json").mkdir()


LABEL_STUDIO = [{
    "id": 1, "data": {"image": "/data/upload/1.png"},
    "annotations": [{"id": 1, "result": [{
        "type": "polygonlabels", "from_name": "label", "to_name": "image", "original_width": 96, "original_height": 64,
        "value": {"points": [[10, 10], [30, 10], [30, 40]], "polygonlabels": ["c1"]},
    }]}],
}]  # fmt: skip
LABELME = {
    "version": "5.4.1", "flags": {}, "imagePath": "1.png", "imageData": None, "imageHeight": 64, "imageWidth": 96,
    "shapes": [{"label": "c1", "points": [[10, 10], [30, 10], [30, 40]], "shape_type": "polygon", "flags": {}}],
}  # fmt: skip
VIA = {"1.png123": {"filename": "1.png", "size": 123, "file_attributes": {}, "regions": [{
    "shape_attributes": {"name": "polygon", "all_points_x": [1, 20, 20], "all_points_y": [1, 1, 20]},
    "region_attributes": {"type": "c1"}}]}}  # fmt: skip
RESULTS = [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.9}]

CASES = [
    Case("json_bom", raw(lambda text: text.encode("utf-8-sig")), trains(12)),
    Case("json_utf_16", raw(lambda text: text.encode("utf-16")), trains(12)),
    Case("json_utf_16_le_without_bom", raw(lambda text: text.encode("utf-16-le")), trains(12)),
    Case("json_latin_1", raw(lambda text: text.replace("c1", "zélé").encode("latin-1")), refused(r"a\.json")),
    Case("json_nan_literal", edited(put("area", float("nan"))), trains(12)),
    Case("json_indented", raw(lambda text: json.dumps(json.loads(text), indent=2).replace("\n", "\r\n")), trains(12)),
    Case("json_trailing_comma", raw(lambda text: text[:-1] + ",}"), refused(r"a\.json", "line 1", "column")),
    Case("json_truncated", raw(lambda text: text[: len(text) // 2]), refused(r"a\.json", "JSON")),
    Case("json_truncated_process", raw(lambda text: text[: len(text) // 2]), refused(r"a\.json"), process=True),
    Case("json_empty_file", raw(lambda text: ""), refused(r"a\.json", "empty|JSON")),
    Case("json_spaces", raw(lambda text: " \n"), refused(r"a\.json")),
    Case("json_comments", raw(lambda text: "// cells\n" + text), refused(r"a\.json", "line 1")),
    Case("json_single_quotes", raw(lambda text: str(json.loads(text))), refused(r"a\.json", "line 1")),
    Case("json_lines", raw(lambda text: "\n".join(map(json.dumps, json.loads(text)["annotations"]))),
         refused(r"a\.json", "JSON lines|line 2")),
    Case("json_twice", raw(lambda text: text + text), refused(r"a\.json")),
    Case("json_list", content([]), refused("list")),
    Case("json_number", content(5), refused("int")),
    Case("json_null", content(None), refused(r"a\.json")),
    Case("json_object_empty", content({}), refused("images")),
    Case("json_deep", raw(lambda text: "[" * 100_000 + "]" * 100_000), refused(r"a\.json")),
    Case("json_binary", png_as_json, refused(r"a\.json")),
    Case("json_zeros", raw(lambda text: b"\0" * 1000), refused(r"a\.json")),
    Case("json_is_a_folder", folder_as_json, refused(r"a\.json")),
    Case("json_number_of_5000_digits", raw(lambda text: text.replace('"iscrowd": 0', '"iscrowd": ' + "1" * 5000, 1)),
         refused(r"a\.json")),
    Case("json_lone_surrogate", raw(lambda text: text.replace('"c1"', '"c\\ud800"')), trains(12)),
    Case("json_duplicate_keys", raw(lambda text: text.replace('"id": 1,', '"id": 1, "id": 1,')), trains(12)),
    Case("json_other_keys", top("licenses", [None, {"a": float("nan")}]), trains(12)),
    Case("json_images_missing", top("images", ...), refused("images")),
    Case("json_images_object", top("images", {"1": {}}), refused("images")),
    Case("json_images_null_entry", add_entry("images", None), refused("images")),
    Case("json_annotations_missing", top("annotations", ...), refused("annotations")),
    Case("json_annotations_null", top("annotations", None), refused("annotations")),
    Case("json_annotations_object", top("annotations", {"1": {}}), refused("annotations")),
    Case("json_annotations_null_entry", add_entry("annotations", None), trains(12, r"\b1\b")),
    Case("json_annotations_text_entry", add_entry("annotations", "disk"), trains(12, r"\b1\b")),
    Case("json_annotations_empty_entry", add_entry("annotations", {}), trains(12, r"\b1\b")),
    Case("json_categories_missing", top("categories", ...), refused("categories")),
    Case("json_results_file", content(RESULTS), refused("result|list")),
    Case("json_label_studio", content(LABEL_STUDIO), refused("Label Studio")),
    Case("json_labelme", content(LABELME), refused("labelme")),
    Case("json_via", content(VIA), refused("VIA")),
    Case("json_geojson", content({"type": "FeatureCollection", "features": []}), refused("images")),
    Case("json_empty_stop", edited(put("segmentation", [], ONE)), refused("segmentation|mask", r"\b4\b"),
         options=("DATALOADER.BAD_ANNOTATIONS", "stop")),
]  # fmt: skip
