"""Parse a COCO JSON file and its tables of images and categories."""

from __future__ import annotations

import codecs
import json
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

from ..errors import InputError, first_few
from .changes import Changes
from .normalize import integer_or_none
from .other_formats import other_format

_MAX_ID = 2**63 - 1
_MAX_PIXELS = 2**31 - 1  # pycocotools counts pixels with 32 bits


def parse_coco_json(where: str, json_file: str) -> tuple[dict[str, Any], bool]:
    """Parse a COCO JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Returns:
        The content, with the lists ``images`` and ``categories`` and, except for a test set without labels,
        ``annotations``; and whether other readers of JSON can read the file as it is.

    Raises:
        InputError: the file cannot be read, is not valid JSON, or has another structure.
    """
    try:
        with open(json_file, "rb") as file:
            raw = file.read()
        is_plain = not raw.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        is_plain = is_plain and json.detect_encoding(raw) == "utf-8"
        content = json.loads(raw)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
            + _json_hint(error, raw)
        ) from error
    except RecursionError as error:
        raise InputError(f"{where} is not a COCO file: its lists are nested too deeply") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{where} cannot be read: {error}") from error
    if not isinstance(content, dict):
        found = type(content).__name__
        raise InputError(f"{where}: the top level is a {found}, expected an object with 'images', ...{_tool(content)}")
    for key in ("images", "categories"):
        if key not in content:
            found = first_few(map(repr, content), 10) or "nothing"
            raise InputError(f"{where} has no '{key}'; found {found}{_tool(content)}")
        if not isinstance(content[key], list) or not all(isinstance(entry, dict) for entry in content[key]):
            raise InputError(f"{where}: '{key}' is not a list of objects")
        if not content[key]:
            raise InputError(f"{where}: '{key}' is empty")
    annotations = content.get("annotations", [])
    if annotations is None or annotations == []:  # of images without labels
        is_plain = is_plain and "annotations" not in content
        content.pop("annotations", None)
    elif not isinstance(annotations, list):
        raise InputError(f"{where}: 'annotations' is a {type(annotations).__name__}, expected a list")
    return content, is_plain


def _json_hint(error: json.JSONDecodeError, raw: bytes) -> str:
    if not raw.strip():
        return " (the file is empty)"
    if error.msg == "Extra data":
        return " (several JSON values, as in JSON Lines; expected one object with 'images', ...)"
    return ""


def _tool(content: Any) -> str:
    tool = other_format(content)
    return f"; {tool}" if tool else ""


def read_categories(where: str, categories: list[dict], filled: Changes) -> dict[int, str]:
    """Return the names of the categories by id, in the order of the ids, which is that of the contiguous ids.

    Raises:
        InputError: an id or a name is missing or has another type, or an id is used twice.
    """
    names: dict[int, str] = {}
    for number, category in enumerate(categories, 1):
        category_id = integer_or_none(category.get("id"))
        if category_id is None:
            raise _wrong_value(where, f"category number {number}", category, "id", "a whole number")
        if not isinstance(category.get("name"), str):
            raise _wrong_value(where, f"category {category_id}", category, "name", "text")
        if category_id in names:
            raise InputError(f"{where}: category id used more than once: {category_id}")
        names[category_id] = category["name"].encode("utf-8", "replace").decode()
        if names[category_id] != category["name"]:
            filled.add("names of categories with characters that are not valid, replaced by '?'", category_id)
        if type(category["id"]) is not int:
            filled.add("ids of categories that are written as text or decimals read as whole numbers", category_id)
    for name, count in Counter(names.values()).items():
        if count > 1:
            filled.add("names that several categories share (the categories stay separate)", repr(name))
    return dict(sorted(names.items()))


def read_images(where: str, images: list[dict], filled: Changes) -> list[dict]:
    """Return the images with valid ids, and with whole numbers as sizes or no size at all.

    Raises:
        InputError: an id is missing, of another type, or used twice; ``file_name`` is missing; a size is not positive.
    """
    checked = []
    for number, image in enumerate(images, 1):
        image_id = image.get("id")
        if not isinstance(image_id, str) or image_id.isdecimal():
            image_id = integer_or_none(image_id)
        if image_id is None or image_id == "":
            raise _wrong_value(where, f"image number {number}", image, "id", "a whole number or text")
        if not isinstance(image.get("file_name"), str) or not image["file_name"].strip():
            raise _wrong_value(where, f"image {image_id}", image, "file_name", "text")
        if not _is_encodable(image["file_name"]):
            raise _wrong_value(where, f"image {image_id}", image, "file_name", "valid Unicode")
        changed: dict[str, Any] = {}
        if type(image_id) is not type(image["id"]):
            changed["id"] = image_id
            filled.add("ids of images that are written as text or decimals read as whole numbers", image_id)
        for side in ("height", "width"):
            if image.get(side) is None:
                continue
            pixels = integer_or_none(image[side])
            if pixels is None:
                raise _wrong_value(where, f"image {image_id}", image, side, "a whole number of pixels")
            if type(image[side]) is not int:
                changed[side] = pixels
                filled.add("sizes of images that are written as text or decimals read as whole numbers", image_id)
        image = {**image, **changed} if changed else image
        height, width = image.get("height"), image.get("width")
        if height is not None and width is not None and not (height > 0 < width and height * width <= _MAX_PIXELS):
            raise InputError(f"{where}: image {image_id} has the size {width} x {height}, expected pixels above 0")
        checked.append(image)
    check_unique(where, "image id", (image["id"] for image in checked))
    if len({type(image["id"]) for image in checked}) > 1:
        raise InputError(f"{where}: some image ids are numbers and others are text, expected one kind")
    return checked


def number_annotations(annotations: list[dict], filled: Changes) -> list[dict]:
    """Return the annotations with unique ids that evaluators can use: whole numbers above 0.

    pycocotools treats a match with annotation 0 as no match, and annotations with the same id as one; Detectron2's
    evaluator reads ids as unsigned 64-bit numbers. If an id is not usable, all annotations are numbered from 1.
    """
    ids = [annotation.get("id") for annotation in annotations]
    if all(type(one) is int and 0 < one <= _MAX_ID for one in ids) and len(set(ids)) == len(ids):
        return annotations
    counts = Counter(map(repr, ids))
    for one in ids:
        if type(one) is not int:
            filled.add("ids of annotations that are missing or not whole numbers (all numbered from 1)", one)
        elif not 0 < one <= _MAX_ID:
            filled.add(
                "ids of annotations that are not from 1 to 2^63 - 1, as COCO's evaluation needs (all numbered from 1)",
                one,
            )
        elif counts[repr(one)] > 1:
            filled.add("ids that several annotations share (all numbered from 1)", one)
    return [{**annotation, "id": number} for number, annotation in enumerate(annotations, 1)]


def check_unique(where: str, what: str, ids: Iterable[Any]) -> None:
    """Raise an InputError if an id is used more than once."""
    duplicates = [one for one, count in Counter(ids).items() if count > 1]
    if duplicates:
        raise InputError(f"{where}: {what} used more than once: {first_few(map(str, duplicates))}")


def _is_encodable(text: str) -> bool:
    """Return whether the text can be the name of a file: JSON can hold halves of characters ("\\ud800")."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _wrong_value(where: str, which: str, entry: dict, key: str, expected: str) -> InputError:
    found = f"is {str(entry[key])[:60]!r}" if key in entry else "is missing"
    return InputError(f"{where}: {which}: '{key}' {found}, expected {expected}")
