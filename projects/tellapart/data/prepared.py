"""
Real data sets that a script in `datasets/` turns into images + COCO JSON before Detectron2 can read them.

A set `bbbc010` lies in `$DETECTRON2_DATASETS/bbbc010` or, where that can't be written to, in the cache folder; a set
prepared in the former is the one used. Either holds `images/` and one `instances_<split>.json` per split.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from tellapart.errors import InputError

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from PIL import Image

from ..files import atomic_folder, cache_dir, write_json
from .coco_folder import check_coco_dataset, coco_annotation

VOC_CLASSES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]
# the colours that VOC's own masks have: bits of the category's number, spread over the three channels
VOC_COLORS = [[sum((i >> 3 * j + c & 1) << 7 - j for j in range(2)) for c in range(3)] for i in range(1, 21)]


def datasets_root() -> Path:
    """`$DETECTRON2_DATASETS`, else "datasets" in the working directory: where Detectron2 looks for data sets."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()


def output_folder(folder: str, root: Path) -> Path:
    """
    Where to write the prepared set `folder`: below `root` if that can be written to, else below `cache_dir()`. A folder
    whose mode says read-only counts as such even for root, who could write to it.
    """
    wanted = root / folder
    writable = wanted.is_dir() and os.access(wanted, os.W_OK) and wanted.stat().st_mode & 0o222
    return wanted if writable else cache_dir() / folder


def register_prepared(
    folder: str, splits: dict[str, str], classes: list[str], colors: list[list[int]], source_images: str = ""
) -> None:
    """
    Enters the splits of a prepared set, `{"worms_train": "train"}`, into the catalogs. Nothing but the presence of the
    JSON is looked at here. `source_images` is for a set whose images stay in that subfolder of the original, whichever
    of the two places has the JSON.
    """
    for name, split in splits.items():
        json_name = f"instances_{split}.json"
        places = [datasets_root() / folder, cache_dir() / folder]
        place = next((place for place in places if (place / json_name).is_file()), places[0])
        json_file = place / json_name
        image_root = places[0] / source_images if source_images else place / "images"
        ensure = partial(_ensure_prepared, name, folder, json_file)

        def load(name: str = name, json_file: str = str(json_file), image_root: str = str(image_root), ensure=ensure):
            ensure()
            check_coco_dataset(name, json_file, image_root)
            return load_coco_json(json_file, image_root, name)

        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(
            json_file=str(json_file),
            image_root=str(image_root),
            evaluator_type="coco",
            thing_classes=classes,
            thing_colors=colors,
            thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(classes))},
            tellapart_ensure=ensure,
        )


def _ensure_prepared(name: str, folder: str, json_file: Path) -> None:
    if not json_file.is_file():
        raise InputError(
            f"Data set {name} is not prepared: neither {json_file} nor {cache_dir() / folder / json_file.name} exists. "
            f"Set DETECTRON2_DATASETS to the folder that holds {folder}/ and run: python datasets/prepare_{folder}.py"
        )


class Problems:
    """Collects what is wrong with a source tree, so that one run names all of it."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.found: list[str] = []

    def add(self, text: str) -> None:
        self.found.append(text)

    def read(self, path: Path) -> np.ndarray | None:
        """The image's pixels as stored; None, noted as a problem, if it can't be read."""
        try:
            with Image.open(path) as image:
                return np.asarray(image)
        except Exception as error:  # Pillow raises a dozen kinds for a broken file
            self.add(f"{path.name} can't be read: {error}")
            return None

    def check(self) -> None:
        """Raises InputError with the first dozen problems, if there are any."""
        if self.found:
            lines = self.found[:12] + [f"and {len(self.found) - 12} more"] * (len(self.found) > 12)
            raise InputError("\n  ".join([f"{self.where}: {len(self.found)} problem(s)", *lines]))


def binary_mask(pixels: np.ndarray) -> np.ndarray:
    """bool (H, W): where any colour of an (H, W) or (H, W, 1 to 4) image is above 0; alpha does not count."""
    if pixels.ndim == 3:
        colors = pixels.shape[2] - 1 if pixels.shape[2] in (2, 4) else pixels.shape[2]
        pixels = pixels[..., :colors].max(axis=2)
    return pixels > 0


class CocoWriter:
    """Gathers images and masks of one category and writes them as `images/` + one COCO JSON per split."""

    def __init__(self, category: str, description: str) -> None:
        self.category = category
        self.description = description
        self._images: list[tuple[str, str, np.ndarray]] = []
        self._masks: list[list[dict]] = []

    def add(self, split: str, file_name: str, image: np.ndarray, masks: list[np.ndarray]) -> None:
        """An 8-bit grey image (H, W) and its instances' masks, bool (H, W) each."""
        self._images.append((split, file_name, image))
        self._masks.append([coco_annotation(0, 0, 1, mask) for mask in masks])

    def write(self, folder: Path) -> dict[str, tuple[int, int]]:
        """
        Replaces what an earlier run wrote into `folder`; the JSONs come last, so that one that is there is complete.

        Returns: for each split its numbers of images and of instances.
        Raises: InputError: `folder` has an `images` folder that no earlier run wrote, or can't be written to.
        """
        if (folder / "images").exists() and not list(folder.glob("instances_*.json")):
            raise InputError(f"{folder / 'images'} is there already and is not this script's: choose another --output")
        content: dict[str, dict[str, list]] = {}
        counts = {"image": 0, "annotation": 0}
        for (split, file_name, image), masks in zip(self._images, self._masks):
            part = content.setdefault(split, {"images": [], "annotations": []})
            counts["image"] += 1
            height, width = image.shape
            part["images"].append({"id": counts["image"], "file_name": file_name, "height": height, "width": width})
            for mask in masks:
                counts["annotation"] += 1
                part["annotations"].append({**mask, "id": counts["annotation"], "image_id": counts["image"]})
        with atomic_folder(folder / "images", replace=True) as work:
            for _, file_name, image in self._images:
                Image.fromarray(image).save(work / file_name)
        for split, part in content.items():
            part["categories"] = [{"id": 1, "name": self.category}]
            part["info"] = {"description": self.description}
            write_json(folder / f"instances_{split}.json", part)
        return {split: (len(part["images"]), len(part["annotations"])) for split, part in content.items()}
