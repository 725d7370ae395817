"""Files and folders are written completely or not at all."""

from __future__ import annotations

import json

from tellapart.errors import InputError
from tellapart.files import atomic_file, atomic_folder, write_json

import pytest


@pytest.mark.parametrize("mode, content", [("w", "new"), ("wb", b"new")])
def test_file_is_replaced_when_the_block_ends(tmp_path, mode, content):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_file(path, mode) as file:
        file.write(content)
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_after_an_error_the_old_file_is_unchanged(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_json_creates_its_folder_and_names_the_file_it_cannot_write(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"a": [1]})
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"a": [1]}
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/a\.json cannot be written"):
        write_json(tmp_path / "file" / "a.json", [])


def test_content_that_is_not_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", [object()])
    assert json.loads((tmp_path / "a.json").read_text()) == [1] and len(list(tmp_path.iterdir())) == 1


def test_folder_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "set"
    with pytest.raises(RuntimeError), atomic_folder(target) as work:
        (work / "half").touch()
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with atomic_folder(target) as work:
        (work / "first").touch()
        assert not target.exists()
    with atomic_folder(target) as work:  # another process has finished first: its folder stays
        (work / "second").touch()
    assert [path.name for path in target.iterdir()] == ["first"]
    with atomic_folder(target, replace=True) as work:
        (work / "third").touch()
    assert [path.name for path in target.iterdir()] == ["third"] and list(tmp_path.iterdir()) == [target]
