"""Real data sets that a script in ``datasets/`` converts to images and COCO JSON files.

A data set such as ``bbbc010`` is in ``$DETECTRON2_DATASETS/bbbc010`` or, where that is not writable, in the cache
folder. If both exist, the former is used. The folder has ``images/`` and one ``instances_<split>.json`` per split.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from tellapart.errors import InputError

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ..files import atomic_folder, cache_dir, write_json
from .coco_folder import coco_annotation
from .label_images import mask_values, read_labels
from .reader import CocoFolder

VOC_CLASSES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]
# The colors of VOC's own masks: the bits of the category number, distributed over the three channels.
VOC_COLORS = [[sum((i >> 3 * j + c & 1) << 7 - j for j in range(2)) for c in range(3)] for i in range(1, 21)]


def datasets_root() -> Path:
    """Return Detectron2's folder of data sets: ``$DETECTRON2_DATASETS``, or "datasets" in the working directory."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()


def register_prepared(
    folder: str, splits: dict[str, str], classes: list[str], colors: list[list[int]], source_images: str = ""
) -> None:
    """Register the splits of a prepared data set in Detectron2's catalogs.

    Only the presence of the JSON files is checked here.

    Args:
        folder: name of the data set's folder.
        splits: split by registered name, for example ``{"bbbc010_train": "train"}``.
        classes: category names.
        colors: one RGB triple per class, for pictures.
        source_images: subfolder of the original data that has the images, if they are not copied to ``images/``.
    """
    for name, split in splits.items():
        json_name = f"instances_{split}.json"
        places = [datasets_root() / folder, cache_dir() / folder]
        place = next((place for place in places if (place / json_name).is_file()), places[0])
        json_file = place / json_name
        image_root = places[0] / source_images if source_images else place / "images"
        ensure = partial(_ensure_prepared, name, folder, json_file)

        DatasetCatalog.register(name, CocoFolder(name, str(json_file), str(image_root), ensure))
        MetadataCatalog.get(name).set(
            json_file=str(json_file),
            image_root=str(image_root),
            evaluator_type="coco",
            thing_classes=classes,
            thing_colors=colors,
            thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(classes))},
        )


def _ensure_prepared(name: str, folder: str, json_file: Path) -> None:
    if not json_file.is_file():
        raise InputError(
            f"Data set {name} is not prepared: neither {json_file} nor {cache_dir() / folder / json_file.name} exists. "
            f"Set DETECTRON2_DATASETS to the parent folder of {folder}/ and run: python datasets/prepare_{folder}.py"
        )


class Problems:
    """Collects the problems of a source folder, so that one run reports all of them."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        """Add one problem."""
        self.messages.append(message)

    def read(self, path: Path) -> np.ndarray | None:
        """Return the pixels of an image as stored; if it cannot be read, add a problem and return None."""
        try:
            with Image.open(path) as image:
                return np.asarray(image)
        except Exception as error:  # Pillow raises many types of errors for broken files
            self.add(f"{path.name} cannot be read: {error}")
            return None

    def read_labels(self, path: Path, name: str = "") -> np.ndarray | None:
        """Return a label image or a mask, int64 (H, W); if it cannot be read, add a problem and return None.

        The problem calls the file ``name``, by default its own name.
        """
        try:
            return read_labels(path)
        except (OSError, ValueError, SyntaxError) as error:
            self.add(f"{name or path.name} cannot be read: {error}")
            return None

    def read_masks(self, path: Path, name: str = "") -> list[np.ndarray]:
        """Return the masks in a file, bool (H, W): one of a mask, one per value of a label image.

        If the file cannot be read, is empty or is neither, add a problem that calls it ``name`` (by default the
        file's name), and return nothing.
        """
        labels = self.read_labels(path, name)
        if labels is None:
            return []
        problem = mask_values(labels)
        if problem:
            self.add(f"{name or path.name} {problem}")
            return []
        return [labels == value for value in np.unique(labels) if value]

    def check(self) -> None:
        """Raise an InputError with the number of problems and the first twelve, if there are any."""
        if self.messages:
            lines = self.messages[:12] + [f"and {len(self.messages) - 12} more"] * (len(self.messages) > 12)
            raise InputError("\n  ".join([f"{self.source}: {len(self.messages)} problem(s)", *lines]))


class CocoWriter:
    """Collects images and masks of one category and writes them as ``images/`` and one COCO JSON per split."""

    def __init__(self, category: str, description: str) -> None:
        self.category = category
        self.description = description
        self._images: list[tuple[str, str, np.ndarray]] = []
        self._masks: list[list[dict]] = []

    def add(self, split: str, file_name: str, image: np.ndarray, masks: list[np.ndarray]) -> None:
        """Add an 8-bit gray image (H, W) and the masks of its instances, bool (H, W) each."""
        self._images.append((split, file_name, image))
        self._masks.append([coco_annotation(0, 0, 1, mask) for mask in masks])

    def write(self, folder: Path) -> dict[str, tuple[int, int]]:
        """Write the data set into ``folder``, and replace that of an earlier run.

        The JSON files are written last, so a JSON file always belongs to a complete data set.

        Returns:
            (number of images, number of instances) per split.

        Raises:
            InputError: ``folder`` is not writable, or has an ``images`` folder without a JSON file of an earlier run.
        """
        if (folder / "images").exists() and not list(folder.glob("instances_*.json")):
            raise InputError(f"{folder / 'images'} exists and was not written by this script: choose another --output")
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
