"""The annotations of random images of a data set, drawn on them, to look at before training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from ..data.annotations import annotation_to_rle
from ..data.image_reading import ImageReader
from ..data.reader import read_dataset
from ..engine.config_checks import load_config
from ..errors import InputError
from .drawing import add_caption, brighten, draw_instances, palette, resize_longest, write_rows
from .page import picture, write_page

_PANEL_SIZE, _PAGE_PANEL_SIZE = 360, 640  # longer side of an image, pixels
_COLUMNS = 4
_MAX_LABELS = 40  # objects in an image, above which their categories are not written


def write_data_sheet(
    path: str | Path, dataset_name: str, number: int, seed: int = 0, opts: Sequence[str] = ()
) -> tuple[int, int]:
    """Draw the annotations of random images of a data set into a picture or a page.

    Args:
        path: of the PNG or HTML file.
        dataset_name: a registered data set.
        number: of images.
        seed: of their choice.
        opts: [key, value, ...] of the config that says how images are read.

    Returns:
        The number of images that are drawn, and that the data set has.

    Raises:
        InputError: the data set or its images cannot be read, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".html"):
        raise InputError(f"output is {path}, expected a .png or .html file")
    if number < 1:
        raise InputError(f"the number of images is {number}, expected at least 1")
    content = read_dataset(dataset_name)
    reader = ImageReader.from_cfg(load_config("", ["MODEL.DEVICE", "cpu", *opts]))
    chosen = np.random.default_rng(seed).permutation(len(content.records))[:number]
    records = [content.records[i] for i in sorted(chosen)]
    is_page = path.suffix.lower() == ".html"
    panels = [
        _draw(record, reader, content.classes, _PAGE_PANEL_SIZE if is_page else _PANEL_SIZE) for record in records
    ]
    if is_page:
        note = f"{len(panels)} of {len(content.records)} images of {content.where}, seed {seed}"
        cards = [(caption, picture(drawn, caption)) for drawn, caption in panels]
        write_page(path, "data_sheet.html", title=f"Annotations of {dataset_name}", note=note, panels=cards)
    else:
        captioned = [add_caption(*panel) for panel in panels]
        rows = [captioned[i : i + _COLUMNS] for i in range(0, len(captioned), _COLUMNS)]
        try:
            write_rows(path, *rows)
        except OSError as error:
            raise InputError(str(error)) from error
    return len(panels), len(content.records)


def _draw(record: dict, reader: ImageReader, classes: Sequence[str], size: int) -> tuple[np.ndarray, str]:
    """Return the picture of an image with its objects, and its caption."""
    try:
        image, gain = brighten(reader.picture(record["file_name"]))
    except OSError as error:
        raise InputError(str(error)) from error
    annotations = record.get("annotations", [])
    objects = [one for one in annotations if not one.get("iscrowd")]
    masks = [coco_mask.decode(annotation_to_rle(one, image.shape[:2])) for one in objects]
    names = []
    if len(classes) > 1 and len(objects) <= _MAX_LABELS:
        names = [classes[one["category_id"]] for one in objects]
    drawn = draw_instances(resize_longest(image, size, cv2.INTER_CUBIC), masks, palette(len(masks)), names)
    crowds = f", {len(annotations) - len(objects)} crowds" if len(annotations) > len(objects) else ""
    brighter = f", {gain:.1f} x brighter" if gain > 1 else ""
    return drawn, f"{Path(record['file_name']).name}: {len(objects)} objects{crowds}{brighter}"
