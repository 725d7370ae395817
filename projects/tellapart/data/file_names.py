"""Find the image files that a data set names: exact names first, then repairs of what other tools and systems write."""

from __future__ import annotations

import bisect
import difflib
import functools
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import unquote

from ..errors import InputError, first_few
from .changes import Changes

# A path from the root of a file system (POSIX, Windows, network share), or a URL.
_ABSOLUTE = re.compile(r"^([A-Za-z]:)?[\\/]|^[A-Za-z][A-Za-z0-9+.-]*://")
_NUM_NEIGHBORS = 50  # files compared for similarity on each side in alphabetical order: comparing all takes seconds
_OTHER_MACHINE = "path of another machine"
_NUM_SHOWN = 3  # files that are missing, in the message


def resolve_file_names(image_root: str, names: Sequence[str]) -> tuple[list[str], Changes]:
    """Return the paths of image files, and what had to be repaired in their names.

    A name that exists is not changed. For any other, these repairs are tried, alone and together: the Unicode normal
    form (macOS decomposes accents), blanks at the ends of a name, backslashes between folders, URL-encoding, an
    absolute path of another machine, and leading folders that the image folder's own path ends with. If repairs lead to
    several files, none is taken. Another case or another extension is only suggested.

    Each folder is listed once, and no file is opened.

    Args:
        image_root: the folder that the names are relative to.
        names: the ``file_name`` of each image; a name may occur several times.

    Returns:
        The paths in the order of ``names``: ``os.path.join(image_root, name)`` for a name that exists. And the repairs.

    Raises:
        InputError: the folder does not exist, or files cannot be found. The message has the names as Python literals,
            because two names can look the same, and the most similar files.
    """
    if not os.path.isdir(image_root or "."):
        raise InputError(f"there is no image folder {image_root}")
    folders = _Folders(image_root)
    paths: dict[str, str] = {}
    not_found: list[str] = []
    for name in dict.fromkeys(names):
        path = folders.exact(name)
        if path is None:
            not_found.append(name)
        else:
            paths[name] = path
    if not not_found:
        return [paths[name] for name in names], Changes()

    repairs = {name: _find_repaired(folders, name) for name in not_found}
    names_of: dict[str, list[str]] = {}
    for name, path in paths.items():
        names_of.setdefault(os.path.normpath(path), []).append(name)
    for name, found in repairs.items():
        for path in found:
            names_of.setdefault(path, []).append(name)
    changes, problems = Changes(), []
    for name, found in repairs.items():
        [path, kind] = next(iter(found.items())) if len(found) == 1 else ["", ""]
        # a/1.png and b/1.png of another machine are not the same file.
        if not path or (_OTHER_MACHINE in kind and len(names_of[path]) > 1):
            problems.append(name)
            continue
        paths[name] = path
        actual = os.path.relpath(path, image_root or ".")
        changes.add(f"file names repaired ({kind})", f"{ascii(name)} is {ascii(actual)}")
    if problems:
        shown = [_describe(folders, name, repairs[name], names_of) for name in problems[:_NUM_SHOWN]]
        shown += [""] * (len(problems) - len(shown))  # only counted
        raise InputError(
            f"{len(problems)} of {len(set(names))} images are not in {image_root}: {first_few(shown, _NUM_SHOWN)}"
        )
    return [paths[name] for name in names], changes


class _Folders:
    """Names of the files and folders below ``image_root``. Each folder is listed once."""

    def __init__(self, image_root: str) -> None:
        self.root = image_root
        self._entries: dict[str, dict[str, bool]] = {}
        self._folded: dict[str, dict[str, list[str]]] = {}

    def exact(self, name: str) -> str | None:
        """Return the path of the file of exactly this name, or None."""
        path = os.path.join(self.root, name)
        folder, base = os.path.split(path)
        return path if self.entries(folder).get(base) else None

    def entries(self, folder: str) -> dict[str, bool]:
        """Return the names in a folder, and whether each is a file."""
        if folder not in self._entries:
            try:
                with os.scandir(folder or ".") as listing:
                    self._entries[folder] = {entry.name: entry.is_file() for entry in listing}
            except (OSError, ValueError):  # there is no such folder, or it has a null character in its name
                self._entries[folder] = {}
        return self._entries[folder]

    def find_folded(self, name: str) -> list[str]:
        """Return the files whose path equals ``name`` but for the Unicode normal form and blanks at the ends."""
        places = [self.root]
        parts = [part for part in name.split("/") if part not in ("", ".")]
        for i, part in enumerate(parts):
            is_file = i == len(parts) - 1
            places = [
                os.path.join(place, entry)
                for place in places
                for entry in ([part] if part == ".." else self._folded_entries(place).get(_fold(part), ()))
                if part == ".." or self.entries(place)[entry] == is_file
            ]
        return places if parts and parts[-1] != ".." else []

    def _folded_entries(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._folded:
            folded: dict[str, list[str]] = {}
            for entry in self.entries(folder):
                folded.setdefault(_fold(entry), []).append(entry)
            self._folded[folder] = folded
        return self._folded[folder]

    @functools.cached_property
    def files(self) -> list[str]:
        """Sorted names of all files in the folders listed so far, relative to the image folder."""
        self.entries(self.root)
        return sorted(
            entry if folder == self.root else os.path.relpath(os.path.join(folder, entry), self.root or ".")
            for folder, entries in self._entries.items()
            for entry, is_file in entries.items()
            if is_file
        )


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().strip("\ufeff\u200b")


def _find_repaired(folders: _Folders, name: str) -> dict[str, str]:
    """Return the files that repairs of ``name`` lead to: normalized path -> what was repaired."""
    found: dict[str, str] = {}
    for variant, kinds in _variants(name, folders.root):
        exact = folders.exact(variant) if kinds else None
        for path in [exact] if exact else folders.find_folded(variant):
            actual = os.path.relpath(path, folders.root or ".").replace(os.sep, "/")
            found.setdefault(os.path.normpath(path), ", ".join([*kinds, *_folding_kinds(variant, actual)]))
    return found


def _folding_kinds(name: str, actual: str) -> list[str]:
    name, actual = (os.path.normpath(one).replace(os.sep, "/") for one in (name, actual))
    kinds = []
    composed = [unicodedata.normalize("NFC", one) for one in (name, actual)]
    if [name, actual] != composed:
        kinds.append("Unicode normal form")
    if composed[0] != composed[1]:
        kinds.append("blanks at an end")
    return kinds


def _variants(name: str, image_root: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (repaired name, what was repaired), starting with the name itself."""
    spellings = {name: []}
    if "%" in name:
        spellings.setdefault(unquote(name), ["URL-encoding"])
    root_parts = [_fold(part) for part in os.path.abspath(image_root or ".").split(os.sep)]
    for spelling, kinds in spellings.items():
        slashes = spelling.replace("\\", "/")
        parts = [part for part in slashes.split("/") if part not in ("", ".")]
        if _ABSOLUTE.match(spelling):
            for i in range(len(parts)):
                yield "/".join(parts[i:]), [*kinds, _OTHER_MACHINE]
            continue
        yield spelling, kinds
        if slashes != spelling:
            kinds = [*kinds, "backslashes"]
            yield slashes, kinds
        for i in range(1, len(parts)):
            if [_fold(part) for part in parts[:i]] == root_parts[-i:]:
                yield "/".join(parts[i:]), [*kinds, "repeated folder"]


def _describe(folders: _Folders, name: str, found: dict[str, str], names_of: dict[str, list[str]]) -> str:
    """Return a name that was not found as a Python literal, with what it could be or what is similar."""
    if not found:
        nearest = _nearest(name, folders.files)
        literal = _literal(name, nearest)
        return f"{literal(name)} (nearest: {literal(nearest)})" if nearest else literal(name)
    files = [os.path.relpath(path, folders.root or ".") for path in found]
    if len(files) > 1:
        return f"{ascii(name)} (could be {' or '.join(map(ascii, files[:3]))})"
    other = next(other for other in names_of[next(iter(found))] if other != name)
    return f"{ascii(name)} (could be {ascii(files[0])}, but so could {ascii(other)})"


def _literal(name: str, other: str) -> Callable[[str], str]:
    """Return ``ascii`` if two names differ in characters that can look the same, else ``repr``."""
    return repr if "".join(set(name) ^ set(other)).isascii() or not other else ascii


def _nearest(name: str, files: list[str]) -> str:
    """Return the most similar of sorted file names: another case or extension first, then most characters in common."""

    def base(file: str) -> str:
        return os.path.basename(file.replace("\\", "/")).lower()

    def stem(file: str) -> str:
        return os.path.splitext(base(file))[0]

    for key in (base, stem):
        same = next((file for file in files if key(file) == key(name)), None)
        if same is not None:
            return same
    backwards = sorted(file[::-1] for file in files)
    near = [*_around(name, files), *(file[::-1] for file in _around(name[::-1], backwards))]
    similar = difflib.get_close_matches(name, list(dict.fromkeys(near)), n=1, cutoff=0.5)
    return similar[0] if similar else ""


def _around(name: str, files: list[str]) -> list[str]:
    at = bisect.bisect(files, name)
    return files[max(at - _NUM_NEIGHBORS, 0) : at + _NUM_NEIGHBORS]
