#!/usr/bin/env python3
"""Convert the instances of the Semantic Boundaries Dataset to the COCO format: ``voc_sds_train`` and ``voc_sds_val``.

Expects `benchmark_RELEASE/dataset` of http://home.bharathh.info/pubs/codes/SBD/download.html as ROOT/voc_sds:
    img/<image id>.jpg
    inst/<image id>.mat         `cls` is not needed, because the classes are in `inst` as well
    train.txt, val.txt          one image id per line
The lists of SBD's download are not those of the SDS protocol, which InstanceFCN and FCIS use. Replace them by the lists
of https://github.com/msracver/FCIS, data/VOCdevkit/VOCSDS/ImageSets/Main (5623 and 5732 images). The images are not
copied. Requires scipy.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from tellapart.data.coco_folder import coco_annotation
from tellapart.data.prepared import VOC_CLASSES, Problems, datasets_root
from tellapart.errors import InputError, run_command
from tellapart.files import cache_dir, write_json

import numpy as np
from tqdm import tqdm

SDS_IMAGES = {"train": 5623, "val": 5732}
VOID = 255
logger = logging.getLogger("prepare_voc_sds")


def prepare(source: Path, output: Path) -> dict[str, tuple[int, int]]:
    """Read ``source`` (the folder with ``img`` and ``inst``) and write two JSON files to ``output``.

    Returns:
        (number of images, number of instances) for "train" and "val".

    Raises:
        InputError: scipy is not installed; or lists everything that is missing or unexpected in the folder.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise InputError("scipy, which reads the MATLAB files, is not installed: pip install scipy") from error
    if not source.is_dir():
        raise InputError(f"There is no folder {source}")
    problems = Problems(str(source))
    lists = {split: _read_list(source / f"{split}.txt", problems) for split in SDS_IMAGES}
    in_both = set(lists["train"]) & set(lists["val"])
    if in_both:
        problems.add(f"{len(in_both)} images are in both train.txt and val.txt, for example {min(in_both)}")
    content, num_images, num_instances = {}, 0, 0
    for split, image_ids in lists.items():
        if image_ids and len(image_ids) != SDS_IMAGES[split]:
            logger.warning(
                "%s.txt lists %d images; the list of the SDS protocol has %d", split, len(image_ids), SDS_IMAGES[split]
            )
        part = content[split] = {"images": [], "annotations": []}
        for image_id in tqdm(image_ids, desc=split, disable=None):
            pixels = problems.read(source / "img" / f"{image_id}.jpg")
            instances = _read_instances(source / "inst" / f"{image_id}.mat", loadmat, problems)
            if pixels is None or instances is None:
                continue
            labels, categories = instances
            if labels.shape != pixels.shape[:2]:
                sizes = [f"{shape[1]} x {shape[0]}" for shape in (labels.shape, pixels.shape)]
                problems.add(f"inst/{image_id}.mat is {sizes[0]} pixels, its image {sizes[1]}")
                continue
            num_images += 1
            height, width = labels.shape
            part["images"].append({"id": num_images, "file_name": f"{image_id}.jpg", "height": height, "width": width})
            for label in np.setdiff1d(labels, (0, VOID)):
                num_instances += 1
                category = int(categories[label - 1])
                part["annotations"].append(coco_annotation(num_instances, num_images, category, labels == label))
    problems.check()
    for split, part in content.items():
        part["categories"] = [{"id": i, "name": name} for i, name in enumerate(VOC_CLASSES, start=1)]
        part["info"] = {"description": "Semantic Boundaries Dataset, instances"}
        write_json(output / f"instances_{split}.json", part)
    return {split: (len(part["images"]), len(part["annotations"])) for split, part in content.items()}


def _read_list(path: Path, problems: Problems) -> list[str]:
    try:
        image_ids = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        problems.add(f"{path.name} cannot be read: {error}")
        return []
    if not image_ids or len(set(image_ids)) < len(image_ids):
        problems.add(f"{path.name} lists {len(image_ids)} images, {len(set(image_ids))} different ones")
    return list(dict.fromkeys(image_ids))


def _read_instances(path: Path, loadmat: Callable, problems: Problems) -> tuple[np.ndarray, np.ndarray] | None:
    """Read the instances of one image; if the file is not valid, add a problem and return None.

    Returns:
        A label image, uint8 (H, W), with 0 for background, instance numbers from 1, and ``VOID``; and the category of
        each instance, 1 to 20.
    """
    try:
        content = loadmat(str(path))["GTinst"][0, 0]
        labels, categories = content["Segmentation"], content["Categories"].ravel()
    except Exception as error:  # scipy raises many types of errors for broken files
        problems.add(f"inst/{path.name} cannot be read: {type(error).__name__}: {error}")
        return None
    numbers = np.setdiff1d(labels, (0, VOID))
    if labels.ndim != 2 or labels.dtype != np.uint8:
        problems.add(f"inst/{path.name}: Segmentation is {labels.dtype} {labels.shape}, expected uint8 (H, W)")
    elif len(numbers) and numbers[-1] > len(categories):
        problems.add(f"inst/{path.name}: instance {numbers[-1]} has none of the {len(categories)} Categories")
    elif len(categories) and not 1 <= categories.min() <= categories.max() <= len(VOC_CLASSES):
        problems.add(f"inst/{path.name}: Categories are {categories.tolist()}, expected 1 to {len(VOC_CLASSES)}")
    else:
        return labels, categories
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=datasets_root(), help="$DETECTRON2_DATASETS or ./datasets")
    parser.add_argument("--output", type=Path, help="default: voc_sds in the cache folder; ROOT is not written to")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    output = args.output or cache_dir() / "voc_sds"
    for split, (images, instances) in prepare(args.root / "voc_sds", output).items():
        logger.info("voc_sds_%s: %d images, %d instances in %s", split, images, instances, output)


if __name__ == "__main__":
    run_command(main)
