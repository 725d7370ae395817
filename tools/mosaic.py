#!/usr/bin/env python
"""Join images of equal size of a COCO data set to one large image with their annotations, to try tiles.

python tools/mosaic.py instances_val.json:images 4 output/mosaic --bits 12

writes output/mosaic/images/mosaic.tif (with 8 bits mosaic.png) of 4 x 4 images, output/mosaic/instances.json, and
output/mosaic/singles.json with the single images.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path

from tellapart.data.annotations import annotation_to_rle
from tellapart.data.coco_folder import rle_annotation
from tellapart.data.data_argument import register_argument
from tellapart.data.image_reading import ImageReader
from tellapart.data.reader import read_dataset
from tellapart.errors import InputError, run_command
from tellapart.files import atomic_path, write_json
from tellapart.inference.mask_crops import MaskCrops

import numpy as np
import tifffile
import torch
from PIL import Image
from pycocotools import mask as coco_mask


def choose(records: list[dict], number: int) -> list[dict]:
    """Return the first ``number`` records of the most frequent image size.

    Raises:
        InputError: there are fewer.
    """
    sizes = Counter((record["height"], record["width"]) for record in records)
    size, count = sizes.most_common(1)[0]
    if count < number:
        raise InputError(f"expected {number} images of one size, found {count} of {size[1]} x {size[0]} px")
    return [record for record in records if (record["height"], record["width"]) == size][:number]


def object_masks(record: dict) -> MaskCrops:
    """Return the masks of an image's objects."""
    size = record["height"], record["width"]
    rles = [annotation_to_rle(one, size) for one in record["annotations"]]
    masks = coco_mask.decode(rles).transpose(2, 0, 1).astype(bool) if rles else np.zeros((0, *size), bool)
    return MaskCrops.from_masks(torch.from_numpy(masks))


def join(records: list[dict], side: int) -> tuple[np.ndarray, MaskCrops]:
    """Return the gray mosaic, uint8 (H, W), of side x side images, and the masks of its objects."""
    height, width = records[0]["height"], records[0]["width"]
    mosaic, masks = np.zeros((side * height, side * width), np.uint8), []
    for i, record in enumerate(records):
        top, left = i // side * height, i % side * width
        pixels = ImageReader()(record["file_name"], "L")
        mosaic[top : top + height, left : left + width] = pixels.reshape(height, width)
        masks.append(object_masks(record).moved(left, top, mosaic.shape))
    return mosaic, MaskCrops.cat(masks)


def coco(files: list[str], masks: list[MaskCrops], category: str) -> dict:
    """Return a COCO file of images and their objects, all of one category."""
    images, annotations = [], []
    for image_id, (file, of_image) in enumerate(zip(files, masks), 1):
        height, width = of_image.image_size
        images.append({"id": image_id, "file_name": file, "height": height, "width": width})
        for rle in of_image.to_rles():
            annotations.append(rle_annotation(len(annotations) + 1, image_id, 1, rle))
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": category}]}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="JSON:IMAGES", help="a COCO data set with one category, or a registered name")
    parser.add_argument("side", type=int, help="images per side of the mosaic")
    parser.add_argument("output", type=Path)
    parser.add_argument("--bits", type=int, default=8, choices=(8, 12), help="bits per pixel (default: %(default)s)")
    args = parser.parse_args()
    content = read_dataset(register_argument(args.data))
    records = choose(content.records, args.side**2)
    mosaic, masks = join(records, args.side)
    path = args.output / "images" / ("mosaic.png" if args.bits == 8 else "mosaic.tif")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        if args.bits == 8:
            Image.fromarray(mosaic).save(temporary, format="png")
        else:
            tifffile.imwrite(temporary, mosaic.astype(np.uint16) * 16)
    category = content.classes[0]
    write_json(args.output / "instances.json", coco([path.name], [masks], category))
    files = [os.path.abspath(record["file_name"]) for record in records]
    write_json(args.output / "singles.json", coco(files, [object_masks(record) for record in records], category))
    print(f"wrote {path}: {mosaic.shape[1]} x {mosaic.shape[0]} px, {len(masks)} objects of {len(records)} images")


if __name__ == "__main__":
    run_command(main)
