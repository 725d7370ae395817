"""File names and sizes of images in the JSON file."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

from ..case import Case, Inputs, edited, one_set, refused, trains
from ..coco_set import Content, put_image, write_images, write_set


def renamed(in_json: Callable[[int], str], on_disk: Callable[[int], str]) -> Callable[[Path], None]:
    """Name the images ``in_json(i)`` in the JSON file and ``on_disk(i)`` in the folder."""

    def build(folder: Path) -> None:
        write_set(folder, put_image("file_name", lambda image: in_json(image["id"])))
        for i in range(1, 5):
            target = folder / "images" / on_disk(i)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder / "images" / f"{i}.png", target)

    return build


def absolute(folder: Path) -> None:
    write_set(folder, put_image("file_name", lambda image: str(folder / "images" / image["file_name"])))


def absolute_elsewhere(folder: Path) -> None:
    write_set(folder, put_image("file_name", lambda image: f"/home/me/data/{image['file_name']}"))


def no_objects_in_last(content: Content) -> None:
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 4]


def missing_file(folder: Path) -> None:
    write_set(folder)
    (folder / "images" / "4.png").unlink()


def similar_file(folder: Path) -> None:
    write_set(folder, put_image("file_name", lambda image: f"cell_0{image['id']}.png"))
    for i in range(1, 5):
        os.rename(folder / "images" / f"{i}.png", folder / "images" / f"cell_{i}.png")


def link(folder: Path) -> None:
    write_set(folder)
    os.rename(folder / "images" / "4.png", folder / "elsewhere.png")
    os.symlink(folder / "elsewhere.png", folder / "images" / "4.png")


def broken_link(folder: Path) -> None:
    write_set(folder)
    (folder / "images" / "4.png").unlink()
    os.symlink(folder / "elsewhere.png", folder / "images" / "4.png")


def folder_as_image(folder: Path) -> None:
    write_set(folder)
    (folder / "images" / "4.png").unlink()
    (folder / "images" / "4.png").mkdir()


def no_folder(folder: Path) -> None:
    write_set(folder)
    os.rename(folder / "images", folder / "pictures")


def parent_as_root(folder: Path) -> Inputs:
    write_set(folder)
    return Inputs((("mine", folder / "a.json", folder),))


def copies(folder: Path) -> None:
    """Two entries whose files have the same content, under different names."""
    write_set(folder)
    (folder / "images" / "2.png").write_bytes((folder / "images" / "1.png").read_bytes())


def twice_in_test(folder: Path) -> Inputs:
    write_set(folder)
    write_set(folder, put_image("file_name", "1.png", 1), name="b.json")
    sets = (("mine", folder / "a.json", folder / "images"), ("other", folder / "b.json", folder / "images"))
    return Inputs(sets, test=("other",))


def only_json(folder: Path) -> Inputs:
    write_images(folder)
    return one_set(folder)


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


NAME = "é{}.png".format
CASES = [
    # --- names ---
    Case("name_blank_at_end_in_json", renamed("{}.png ".format, "{}.png".format), trains(12, r"\b4\b")),
    Case("name_blank_at_start_in_json", renamed(" {}.png".format, "{}.png".format), trains(12)),
    Case("name_blank_inside", renamed("my image {}.png".format, "my image {}.png".format), trains(12)),
    Case("name_newline_at_end", renamed("{}.png\n".format, "{}.png".format), trains(12)),
    Case("name_backslash", renamed("sub\\{}.png".format, "sub/{}.png".format), trains(12, r"\b4\b")),
    Case("name_url_encoded", renamed("my%20image%20{}.png".format, "my image {}.png".format), trains(12, r"\b4\b")),
    Case("name_percent_on_disk", renamed("a%20{}.png".format, "a%20{}.png".format), trains(12)),
    Case("name_nfc_in_json_nfd_on_disk", renamed(lambda i: nfc(NAME(i)), lambda i: nfd(NAME(i))), trains(12)),
    Case("name_nfd_in_json_nfc_on_disk", renamed(lambda i: nfd(NAME(i)), lambda i: nfc(NAME(i))), trains(12)),
    Case("name_absolute", absolute, trains(12)),
    Case("name_absolute_elsewhere", absolute_elsewhere, trains(12, r"another|\b4\b")),
    Case("name_subfolder", renamed("a/b/{}.png".format, "a/b/{}.png".format), trains(12)),
    Case("name_dot", renamed("./{}.png".format, "{}.png".format), trains(12)),
    Case("name_dot_dot", renamed("../images/{}.png".format, "{}.png".format), trains(12)),
    Case("name_with_root", renamed("images/{}.png".format, "{}.png".format), trains(12, r"\b4\b")),
    Case("name_upper_case", renamed("{}.PNG".format, "{}.png".format), refused(r"1\.PNG", r"1\.png")),
    Case("name_other_extension", renamed("{}.jpg".format, "{}.png".format), refused(r"1\.jpg", r"1\.png")),
    Case("name_similar", similar_file, refused("cell_01.png", "cell_1.png")),
    Case("name_of_missing_file", missing_file, refused(r"4\.png", "1 of 4")),
    Case("name_empty", edited(put_image("file_name", "", 1)), refused("image 2", "file_name")),
    Case("name_null", edited(put_image("file_name", None, 1)), refused("image 2", "file_name")),
    Case("name_number", edited(put_image("file_name", 5, 1)), refused("image 2", "file_name")),
    Case("name_missing", edited(put_image("file_name", ..., 1)), refused("image 2", "file_name")),
    Case("name_twice", edited(put_image("file_name", "1.png", 1)), trains(12, r"1\.png")),
    Case("name_all_equal", edited(put_image("file_name", "1.png")), trains(12, r"1\.png")),
    Case("name_twice_in_test_set", twice_in_test, trains(12, r"1\.png")),
    Case("name_symbolic_link", link, trains(12)),
    Case("name_broken_link", broken_link, refused(r"4\.png")),
    Case("name_is_a_folder", folder_as_image, refused(r"4\.png")),
    Case("image_folder_missing", no_folder, refused("images")),
    Case("image_folder_is_the_parent", parent_as_root, refused(r"1\.png", "images/1.png|'images'|images")),
    Case("json_missing", only_json, refused(r"a\.json")),
    Case("image_files_equal", copies, trains(12)),
    # --- images without objects ---
    Case("image_without_objects", edited(no_objects_in_last), trains(9)),
    Case("image_without_objects_kept", edited(no_objects_in_last), trains(9),
         options=("DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"),
         models=("fcis", "instance_fcn", "mask_rcnn", "semiconv", "coloring")),
    Case("images_all_without_objects", edited(lambda content: content["annotations"].clear()),
         refused("annotations")),
    Case("images_empty", edited(lambda content: content["images"].clear()), refused("images")),
    Case("image_without_entry", edited(lambda content: content["images"].pop()), trains(9, r"image.*\b3\b")),
    # --- sizes ---
    Case("size_missing", edited(put_image("width", ...), put_image("height", ...)), trains(12, r"\b4\b")),
    Case("size_null_one", edited(put_image("width", None, 1)), trains(12, r"\b1\b")),
    Case("size_zero", edited(put_image("width", 0, 1)), refused("image 2")),
    Case("size_negative", edited(put_image("height", -64, 1)), refused("image 2")),
    Case("size_text", edited(put_image("width", "96")), trains(12)),
    Case("size_floats", edited(put_image("width", 96.0)), trains(12)),
    Case("size_halves", edited(put_image("width", 96.5, 1)), refused("image 2", "width")),
    Case("size_words", edited(put_image("width", "wide", 1)), refused("image 2", "width")),
    Case("size_swapped", edited(put_image("width", 64), put_image("height", 96)),
         refused("64.*96|96.*64", r"png")),
    Case("size_wrong_one", edited(put_image("width", 100, 1)), refused(r"2\.png", "100")),
    Case("size_wrong_all", edited(put_image("width", 192), put_image("height", 128)), refused("192", "96")),
    Case("size_huge", edited(put_image("width", 10**12, 1)), refused("image 2")),
]  # fmt: skip
