#!/usr/bin/env python3
"""Convert label images, one mask per object, or YOLO segmentations to a COCO JSON file. Images are not copied.

Label images (of Cellpose, StarDist, ImageJ, scikit-image: 0 is background, every other value is one object), in a
folder of their own with the same names, or beside the images as NAME_masks, NAME_cp_masks, NAME_mask, NAME_labels or
NAME_label:
    prepare_labels.py --images images --labels masks
    prepare_labels.py --images images
(`tellapart train` and the other commands read such folders directly.)
One file per object, in a folder with the name of the image:
    prepare_labels.py --images images --labels masks          (masks/NAME/1.png, masks/NAME/2.png, ...)
YOLO segmentations (needs labelformat: `pip install -e .[formats]`):
    prepare_labels.py --yolo data.yaml --split train
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path

from tellapart.data.label_folder import write_coco_of_labels
from tellapart.errors import InputError, first_few, run_command
from tellapart.files import cache_dir, write_json

import yaml

logger = logging.getLogger("prepare_labels")


def prepare_yolo(data_file: Path, split: str, output: Path) -> tuple[int, int]:
    """Convert one split of a YOLO segmentation data set with labelformat.

    Images without a label file have no objects, as for Ultralytics.

    Returns:
        The number of images and of objects.

    Raises:
        InputError: labelformat is not installed, or cannot read the data set.
    """
    try:
        from labelformat.formats import COCOInstanceSegmentationOutput, YOLOv8InstanceSegmentationInput
    except ImportError as error:
        raise InputError(f"--yolo needs labelformat: pip install -e .[formats] ({error})") from error
    labels = yolo_folders(data_file, split)[1]
    without = []

    class WithLabels(YOLOv8InstanceSegmentationInput):
        """The images that have a label file; labelformat stops at the others."""

        def get_images(self):
            without.clear()
            for image in super().get_images():
                if (labels / image.filename).with_suffix(".txt").is_file():
                    yield image
                else:
                    without.append(image)

    try:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder) / "coco.json"
            COCOInstanceSegmentationOutput(work).save(label_input=WithLabels(data_file, split))
            content = json.loads(work.read_text())
    except Exception as error:  # labelformat raises many types of errors for wrong files
        raise InputError(f"{data_file}: labelformat cannot read it: {type(error).__name__}: {error}") from error
    for image in without:
        entry = {"id": image.id, "file_name": image.filename, "height": image.height, "width": image.width}
        content["images"].append(entry)
    if without:
        names = first_few([image.filename for image in without])
        logger.warning("%d images have no file in %s and are kept as background: %s", len(without), labels, names)
    write_json(output, content)
    return len(content["images"]), len(content["annotations"])


def yolo_folders(data_file: Path, split: str) -> tuple[Path, Path]:
    """Return the folders of images and of label files of a split of a YOLO data set.

    Raises:
        InputError: the file is missing, is not YAML, or has no such split, or the folders do not exist.
    """
    try:
        data = yaml.safe_load(data_file.read_text())
        images = (data_file.parent / data.get("path", "") / data[split]).resolve()
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{data_file} cannot be read: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{data_file} has no '{split}', expected the folder of its images") from error
    parts = ["labels" if part == "images" else part for part in images.parts]
    labels = Path(*parts)
    for folder in (images, labels):
        if not folder.is_dir():
            raise InputError(f"{data_file}: there is no folder {folder}")
    return images, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of images")
    parser.add_argument("--labels", type=Path, help="folder of label images, or of one folder of masks per image")
    parser.add_argument("--yolo", type=Path, metavar="YAML", help="description of a YOLO segmentation data set")
    parser.add_argument("--split", default="train", help="split of the YOLO data set (default: %(default)s)")
    parser.add_argument("--category", default="object", help="name of the category (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file (default: labels/NAME.json in the cache folder)")
    args = parser.parse_args()
    if (args.images is None) == (args.yolo is None):
        parser.error("one of --images and --yolo is needed")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    name = args.split if args.yolo else args.images.resolve().name
    output = args.output or cache_dir() / "labels" / f"{name}.json"
    if args.yolo:
        images = yolo_folders(args.yolo, args.split)[0]
        counts = prepare_yolo(args.yolo, args.split, output)
    else:
        images = args.images
        counts = write_coco_of_labels(args.images, args.labels, output, args.category)
    logger.info("%d images, %d objects: tellapart check %s:%s", *counts, output, images)


if __name__ == "__main__":
    run_command(main)
