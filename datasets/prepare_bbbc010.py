#!/usr/bin/env python3
"""Convert the worm images of BBBC010 to the COCO format: ``bbbc010_train`` and ``bbbc010_test``.

Expects the collection's original layout (https://bbbc.broadinstitute.org/BBBC010) below ROOT/bbbc010:
    BBBC010_v1_foreground/<well>_binary.png                          100 silhouettes, wells A01 to E04
    BBBC010_v1_foreground_eachworm/<well>_<nn>_ground_truth.png      one mask per worm; worms may overlap
The silhouette is the input image (8-bit gray, 0 and 255). The first 50 wells by name are for training, the last 50 for
testing.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections import defaultdict
from pathlib import Path

from tellapart.data.prepared import CocoWriter, Problems, datasets_root
from tellapart.errors import run_command
from tellapart.files import cache_dir

import numpy as np

WELLS = [f"{row}{column:02d}" for row in "ABCDE" for column in range(1, 25)][:100]
SILHOUETTES, WORMS = "BBBC010_v1_foreground", "BBBC010_v1_foreground_eachworm"
logger = logging.getLogger("prepare_bbbc010")


def prepare(source: Path, output: Path, align: bool = False) -> dict[str, tuple[int, int]]:
    """Check ``source`` (the folder with the collection's two folders); write ``images/`` and two JSON files to
    ``output``.

    In the original data, every silhouette is one row below the masks of its worms. The masks are never changed.

    Args:
        source: folder of the original data.
        output: folder to write to.
        align: move the silhouettes onto the masks. By default they are not moved, as in published results.

    Returns:
        (number of images, number of worms) for "train" and "test".

    Raises:
        InputError: lists everything that is missing or unexpected in the folder.
    """
    problems = Problems(str(source))
    silhouettes = _by_well(source / SILHOUETTES, r"_binary\.png", problems)
    worms = _by_well(source / WORMS, r"_\d+_ground_truth\.png", problems)
    for well in WELLS:
        if well not in silhouettes:
            problems.add(f"well {well} has no silhouette {SILHOUETTES}/{well}_binary.png")
        if well not in worms:
            problems.add(f"well {well} has no worm {WORMS}/{well}_<nn>_ground_truth.png")
    for well in sorted({*silhouettes, *worms} - set(WELLS)):
        first = (silhouettes.get(well) or worms[well])[0]
        problems.add(f"{first.parent.name}/{first.name} is of well {well}, which is not in the collection")
    problems.check()

    writer = CocoWriter("worm", "BBBC010 C. elegans, wells sorted by name, first 50 train, last 50 test")
    num_shifted, unlabeled = 0, []
    for i, well in enumerate(WELLS):
        image, masks = _read_well(silhouettes[well][0], worms[well], problems)
        if problems.messages:
            continue
        covered = np.logical_or.reduce(masks)
        shift = min((0, 1, -1, 2, -2), key=lambda rows: np.count_nonzero(np.roll(image, rows, 0) ^ covered))
        num_shifted += shift != 0
        moved = np.roll(image, shift, 0)
        if np.count_nonzero(moved & ~covered) > 0.02 * np.count_nonzero(image):
            unlabeled.append(well)
        split = "train" if i < 50 else "test"
        writer.add(split, f"{well}.png", (moved if align else image).astype(np.uint8) * 255, masks)
    problems.check()
    if num_shifted:
        state = "moved onto them" if align else "not moved (--align moves them)"
        logger.info(
            "%d of %d silhouettes are a row or two off the masks of their worms: %s", num_shifted, len(WELLS), state
        )
    if unlabeled:
        logger.info("%d wells have worms in the silhouette without a mask: %s", len(unlabeled), " ".join(unlabeled))
    return writer.write(output)


def _by_well(folder: Path, ending: str, problems: Problems) -> dict[str, list[Path]]:
    if not folder.is_dir():
        problems.add(f"there is no folder {folder.name}")
        return {}
    files = defaultdict(list)
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(r"([A-Z]\d\d)" + ending, path.name)
        if match:
            files[match[1]].append(path)
        elif not path.name.startswith(".") and path.name != "Thumbs.db":
            problems.add(f"{folder.name}/{path.name} has a name that the collection does not use")
    return dict(files)


def _read_well(silhouette: Path, worms: list[Path], problems: Problems) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the silhouette and the masks of the worms, bool (H, W) each."""
    labels = problems.read_labels(silhouette)
    if labels is None:
        return np.zeros((1, 1), bool), []
    image, masks = labels > 0, []
    for path in worms:
        in_file = problems.read_masks(path)
        if in_file and in_file[0].shape != image.shape:
            sizes = [f"{shape[1]} x {shape[0]}" for shape in (in_file[0].shape, image.shape)]
            problems.add(f"{path.name} is {sizes[0]} pixels, its silhouette {sizes[1]}")
        masks += in_file
    return image, masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=datasets_root(), help="$DETECTRON2_DATASETS or ./datasets")
    parser.add_argument("--output", type=Path, help="default: bbbc010 in the cache folder; ROOT is not written to")
    parser.add_argument("--align", action="store_true", help="move the silhouettes one row up, onto the worms' masks")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    output = args.output or cache_dir() / "bbbc010"
    for split, (images, worms) in prepare(args.root / "bbbc010", output, args.align).items():
        logger.info("bbbc010_%s: %d images, %d worms in %s", split, images, worms, output)


if __name__ == "__main__":
    run_command(main)
