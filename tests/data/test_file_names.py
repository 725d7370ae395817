"""File names of images: repairs that lead to one file are counted, everything else is one message."""

from __future__ import annotations

import os
import unicodedata

import tellapart  # noqa: F401
from tellapart.data.changes import Changes
from tellapart.data.file_names import resolve_file_names
from tellapart.errors import InputError

import pytest

NFC, NFD = (unicodedata.normalize(form, "\u00e9") for form in ("NFC", "NFD"))


@pytest.fixture
def images(tmp_path):
    """Return a function that creates an image folder with files, and returns its path."""

    def create(*names: str) -> str:
        for name in names:
            path = tmp_path / "data" / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return str(tmp_path / "data" / "images")

    return create


def test_existing_names_are_joined_and_not_changed(images):
    root = images("b.png", "sub/a.png", "a b%20.png")
    names = ["sub/a.png", "b.png", "./b.png", "sub/../b.png", "a b%20.png", "b.png", os.path.join(root, "b.png")]
    paths, changes = resolve_file_names(root, names)
    assert paths == [os.path.join(root, name) for name in names] and not changes


@pytest.mark.parametrize(
    ("name", "file", "kind"),
    [
        (f"{NFC}1.png", f"{NFD}1.png", "Unicode normal form"),
        (f"{NFD}1.png", f"{NFC}1.png", "Unicode normal form"),
        (f"{NFC}/1.png", f"{NFD}/1.png", "Unicode normal form"),
        ("1.png ", "1.png", "blanks at an end"),
        ("1.png", " 1.png", "blanks at an end"),
        ("1.png\r\n", "1.png", "blanks at an end"),
        ("./sub /1.png", "sub/1.png", "blanks at an end"),
        (f"{NFC}.png ", f"{NFD}.png", "Unicode normal form, blanks at an end"),
        ("sub\\1.png", "sub/1.png", "backslashes"),
        ("a%20b%C3%A9.png", f"a b{NFC}.png", "URL-encoding"),
        ("sub%2F%C3%A91.png", f"sub/{NFD}1.png", "URL-encoding, Unicode normal form"),
        ("sub%5C1.png", "sub/1.png", "URL-encoding, backslashes"),
        ("C:\\Users\\me\\1.png", "1.png", "path of another machine"),
        ("C:/Users/me/1.png", "1.png", "path of another machine"),
        ("\\\\server\\share\\sub\\1.png", "sub/1.png", "path of another machine"),
        ("/home/me/1.png ", "1.png", "path of another machine, blanks at an end"),
        ("/1.png", "1.png", "path of another machine"),
        ("https://host/files/a%20b.png", "a b.png", "URL-encoding, path of another machine"),
        ("images/1.png", "1.png", "repeated folder"),
        ("data/images/sub/1.png", "sub/1.png", "repeated folder"),
        ("images\\1.png", "1.png", "backslashes, repeated folder"),
    ],
)
def test_repairs(images, name, file, kind):
    root = images(file, "other.png")
    paths, changes = resolve_file_names(root, ["other.png", name, name])
    assert os.path.samefile(paths[1], os.path.join(root, file)) and paths[2] == paths[1]
    assert changes.summary() == f"file names repaired ({kind}): 1 ({ascii(name)} is {ascii(file)})"


def test_repairs_are_counted_by_kind(images):
    root = images(*(f"{i}.png" for i in range(5)), f"{NFD}.png")
    _, changes = resolve_file_names(root, [*(f"images/{i}.png" for i in range(5)), f"{NFC}.png"])
    first, second = changes.summary().splitlines()
    assert first.startswith("file names repaired (repeated folder): 5 ('images/0.png' is '0.png', ")
    assert first.endswith(" and 2 more)") and second.startswith("file names repaired (Unicode normal form): 1 (")


@pytest.mark.parametrize(
    ("names", "files", "expected"),
    [
        # Only suggested: on a case-insensitive file system these would be the same, on this one they are not.
        (["A.PNG"], ["a.png"], r"1 of 1 images are not in .*images: 'A\.PNG' \(nearest: 'a\.png'\)$"),
        (["a.jpg"], ["b.jpg", "a.png"], r"'a\.jpg' \(nearest: 'a\.png'\)$"),
        (["sub/image_0010.png"], ["sub/image_0001.png", "x.png"], r"\(nearest: 'sub/image_0001\.png'\)$"),
        (["quite_another.tif"], ["a.png"], r": 'quite_another\.tif'$"),
        # A Cyrillic letter looks like a Latin one.
        (["\u0430.png"], ["a.png"], r"'\\u0430\.png' \(nearest: 'a\.png'\)$"),
        (["\u00fc1.png"], ["\u00fc2.png"], r"'\u00fc1\.png' \(nearest: '\u00fc2\.png'\)$"),
        # Two files fit.
        (["/data/sub/1.png"], ["1.png", "sub/1.png"], r"\(could be 'sub/1\.png' or '1\.png'\)$"),
        (["1.png"], ["1.png ", " 1.png"], r"\(could be '.?1\.png.?' or '.?1\.png.?'\)$"),
        (["/a/1.png", "/b/1.png"], ["1.png"], r"'/a/1\.png' \(could be '1\.png', but so could '/b/1\.png'\), '/b/1"),
        (["1.png", "/b/1.png"], ["1.png"], r"1 of 2 .*'/b/1\.png' \(could be '1\.png', but so could '1\.png'\)$"),
        # A folder is not an image.
        (["sub"], ["sub/1.png"], r"1 of 1 images are not in .*: 'sub'"),
        ([""], ["1.png"], r"1 of 1 images are not in .*: ''"),
        (["a\0.png"], ["1.png"], r"'a\\x00\.png'"),
        (["..", "../"], ["1.png"], r"2 of 2"),
        ([f"no{i}.tif" for i in range(9)], ["1.png"], r"9 of 9 images .* and 6 more$"),
    ],
)
def test_what_is_not_found_is_shown_with_the_nearest_name(images, names, files, expected):
    root = images(*files)
    with pytest.raises(InputError, match=expected):
        resolve_file_names(root, names)


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match="there is no image folder .*nowhere"):
        resolve_file_names(str(tmp_path / "nowhere"), ["a.png"])


def test_shared_case_nfd(shared_data):
    root = str(shared_data / "cases" / "a48e_unicode_nfd" / "images")
    paths, changes = resolve_file_names(root, [f"{NFC}{i}.png" for i in range(1, 5)])
    assert all(map(os.path.isfile, paths))
    assert changes.summary().startswith("file names repaired (Unicode normal form): 4 (")


def test_changes_are_one_line_per_kind():
    changes = Changes()
    assert not changes and changes.summary() == ""
    for i in range(5):
        changes.add("boxes computed from the mask", i)
    changes.add("empty polygons dropped", 7)
    assert changes
    assert changes.summary() == "boxes computed from the mask: 5 (0, 1, 2 and 2 more)\nempty polygons dropped: 1 (7)"
