"""Split a COCO file by image, so that every part has its share of the images and of the objects of each category.

examples:
  tellapart split annotations.json          # 80 and 20 %: annotations_train.json and annotations_val.json
  tellapart split annotations.json --fractions 0.7 0.2 0.1 --names train val test --output parts
  tellapart split folder_with_label_images --output parts

The same file, fractions and seed give the same parts. Images are not copied.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``tellapart split``."""
    parser.add_argument("data", metavar="JSON", help="a COCO file, JSON:IMAGES, a folder, or a registered name")
    parser.add_argument(
        "--fractions", type=float, nargs="+", default=[0.8, 0.2], help="of the parts (default: 0.8 0.2)"
    )
    parser.add_argument("--names", nargs="+", default=["train", "val", "test"], help="of the parts")
    parser.add_argument("--seed", type=int, default=0, help="of the random order (default: 0)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the new files (default: beside the file)")


def run(args: argparse.Namespace) -> None:
    """Split, and print what each part has."""
    from tellapart.data.data_argument import register_argument
    from tellapart.data.reader import read_dataset
    from tellapart.data.split import split_dataset
    from tellapart.errors import InputError
    from tellapart.files import write_json

    if len(args.names) < len(args.fractions):
        raise InputError(f"--names has {len(args.names)} names for {len(args.fractions)} fractions")
    name = register_argument(args.data)
    content = read_dataset(name)
    parts = split_dataset(content, args.fractions, args.seed)
    json_file = Path(content.json_file)
    for part, part_name in zip(parts, args.names):
        path = (args.output or json_file.parent) / f"{json_file.stem}_{part_name}.json"
        write_json(path, part)
        print(f"{path}: {len(part['images'])} images, {len(part['annotations'])} annotations")
