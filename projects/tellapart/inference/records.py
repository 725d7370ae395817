"""What was found in each image of a folder, one file per image, and the tables that are assembled from them.

A record is written last of an image's files, so it also says that the image is done. Its first line describes the
image, each other line one instance.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..files import atomic_file
from .measurements import columns

_FOLDER = ".records"


@dataclass
class ImageRecord:
    """The first line of a record.

    Attributes:
        image: name of the image, as in the tables.
        file: its path, size in bytes and time of change, to notice that it was replaced.
        settings: what else the results depend on.
        height, width: of the image, pixels.
        num_channels: of the intensities in the rows.
        counts: instances per category.
    """

    image: str
    file: list
    settings: dict
    height: int = 0
    width: int = 0
    num_channels: int = 1
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of_file(cls, image: str, path: Path, settings: dict) -> ImageRecord:
        """Return the record of an image that has not been predicted yet."""
        stat = path.stat()
        return cls(image, [str(path.resolve()), stat.st_size, stat.st_mtime_ns], settings)


def record_path(output: Path, name: str) -> Path:
    """Return the path of an image's record."""
    return output / _FOLDER / f"{name}.jsonl"


def is_done(path: Path, record: ImageRecord) -> bool:
    """Return whether a record of the same file and settings exists."""
    try:
        with open(path, encoding="utf-8") as file:
            before = json.loads(file.readline())
        return before["file"] == record.file and before["settings"] == record.settings
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_record(path: Path, record: ImageRecord, rows: Sequence[list], results: Sequence[dict]) -> None:
    """Write a record: per instance the row of the table and the COCO result without ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        for line in (asdict(record), *({"row": row, "result": result} for row, result in zip(rows, results))):
            file.write(json.dumps(line) + "\n")


def _read(path: Path) -> Iterator[dict]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def write_tables(output: Path, paths: Sequence[Path], class_names: Sequence[str], failed: dict[str, str]) -> None:
    """Write ``instances.csv``, one row per instance, and ``images.csv``, one row per image with counts.

    Args:
        output: the folder.
        paths: of the records.
        class_names: categories with columns of their own in ``images.csv``, if there are several.
        failed: images that could not be predicted, with the reason, for the column "error".
    """
    heads = [next(_read(path)) for path in paths]
    several = list(class_names) if len(class_names) > 1 else []
    with atomic_file(output / "images.csv", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "width", "height", "instances", *several, "error"])
        for head in heads:
            counts = [head["counts"].get(name, 0) for name in several]
            writer.writerow([head["image"], head["width"], head["height"], sum(head["counts"].values()), *counts, ""])
        for image, reason in failed.items():
            writer.writerow([image, "", "", "", *("" for _ in several), reason])
    with atomic_file(output / "instances.csv", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns(max((head["num_channels"] for head in heads), default=1)))
        for path in paths:
            for line in _read(path):
                if "row" in line:
                    writer.writerow(line["row"])


def write_coco(output: Path, paths: Sequence[Path], class_names: Sequence[str]) -> None:
    """Write ``coco_results.json`` in COCO's format of results, and ``coco_images.json``, which its ids refer to."""
    images = []
    with atomic_file(output / "coco_results.json") as file:
        separator = "[\n"
        for image_id, path in enumerate(paths, 1):
            for line in _read(path):
                if "result" in line:
                    file.write(separator + json.dumps({"image_id": image_id, **line["result"]}))
                    separator = ",\n"
                else:
                    size = {"width": line["width"], "height": line["height"]}
                    images.append({"id": image_id, "file_name": line["image"], **size})
        file.write("\n]\n" if separator == ",\n" else "[]\n")
    categories = [{"id": i, "name": name} for i, name in enumerate(class_names, 1)]
    with atomic_file(output / "coco_images.json") as file:
        json.dump({"images": images, "annotations": [], "categories": categories}, file)
