#!/usr/bin/env python
"""The first N images of a COCO JSON as a JSON of their own, to overfit on or to try a config with.

    python tools/subset_coco.py instances_train2017.json 16 output/first_16.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tellapart.errors import InputError, run_command
from tellapart.files import write_json


def subset(source: Path, count: int) -> dict:
    """The content of ``source`` cut to its first ``count`` images and their annotations; all categories stay.

    Raises:
        InputError: no such file, no COCO JSON, fewer images, or none wanted.
    """
    try:
        coco = json.loads(source.read_text())
        images, annotations = coco["images"], coco["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{source} is no COCO JSON: {type(error).__name__} {error}") from error
    if not 1 <= count <= len(images):
        raise InputError(f"{source} has {len(images)} images, wanted {count}")
    kept = {image["id"] for image in images[:count]}
    return {**coco, "images": images[:count], "annotations": [a for a in annotations if a["image_id"] in kept]}


def main() -> None:
    """Read the arguments, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("count", type=int, metavar="N")
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    part = subset(args.source, args.count)
    write_json(args.output, part)
    print(f"wrote {args.output}: {len(part['images'])} images, {len(part['annotations'])} annotations")


if __name__ == "__main__":
    run_command(main)
