#!/usr/bin/env python
"""Write the first N images of a COCO JSON file to a new file, for example to overfit on them.

python tools/subset_coco.py instances_train2017.json 16 output/first_16.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tellapart.errors import InputError, run_command
from tellapart.files import write_json


def subset(source: Path, count: int) -> dict:
    """Return the content of ``source`` with its first ``count`` images, their annotations, and all categories.

    Raises:
        InputError: the file does not exist or is not a COCO JSON, or ``count`` is not between 1 and its number of
        images.
    """
    try:
        coco = json.loads(source.read_text())
        images, annotations = coco["images"], coco["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{source} is not a COCO JSON: {type(error).__name__} {error}") from error
    if not 1 <= count <= len(images):
        raise InputError(f"{source} has {len(images)} images, but {count} are requested")
    kept = {image["id"] for image in images[:count]}
    return {**coco, "images": images[:count], "annotations": [a for a in annotations if a["image_id"] in kept]}


def main() -> None:
    """Run the command."""
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
