"""Data sets that are drawn from a seed at first use and stored in the cache folder as PNG files and a COCO JSON."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ...files import atomic_folder, cache_dir
from ..coco_folder import coco_annotation
from ..reader import CocoFolder

# (seed, index) -> image, uint8 (H, W, 3) RGB or (H, W) gray; per object its class index and its mask, bool (H, W)
Draw = Callable[[int, int], tuple[np.ndarray, list[tuple[int, np.ndarray]]]]


@dataclass(frozen=True)
class SyntheticDataset:
    """A series of images per seed, and the splits that are taken from it.

    ``draw(seed, index)`` depends only on its arguments, so a longer split starts with the images of a shorter one:
    ``dataclasses.replace(WORMS, splits={"long": (WORMS.splits["train"][0], 20000)}).register()`` registers
    ``worms_long``.

    Attributes:
        name: of the data set; "shapes" with a split "train" is registered as ``shapes_train``.
        version: part of the cache folder's name. Increase it with every change of the drawn images, so that
            outdated caches are not used.
        classes: category names; the COCO ids are 1, 2, ... in this order.
        colors: one RGB triple per class, for pictures.
        splits: (seed, number of images) per split.
        draw: draws one image.
    """

    name: str
    version: int
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    splits: Mapping[str, tuple[int, int]]
    draw: Draw

    def folder(self, split: str, root: Path) -> Path:
        """Return the folder of ``split`` below the cache folder ``root``."""
        return root / f"{self.name}_{split}_v{self.version}"

    def ensure(self, split: str, root: Path | None = None) -> tuple[str, str]:
        """Draw ``split`` into ``root`` (default: ``cache_dir()``), unless it exists.

        Returns:
            The paths of its COCO JSON and of its image folder.

        Raises:
            InputError: ``root`` is not writable.
        """
        folder = self.folder(split, root or cache_dir())
        if not folder.is_dir():
            logger = logging.getLogger(__name__)
            logger.info("Drawing %s_%s: %d images into %s", self.name, split, self.splits[split][1], folder)
            start = time.perf_counter()
            with atomic_folder(folder) as work:
                self._write(split, work)
            logger.info("Drew %s_%s in %.1f s", self.name, split, time.perf_counter() - start)
        return str(folder / "instances.json"), str(folder / "images")

    def _write(self, split: str, folder: Path) -> None:
        (folder / "images").mkdir()
        seed, num_images = self.splits[split]
        images: list[dict] = []
        annotations: list[dict] = []
        for i in range(num_images):
            image, objects = self.draw(seed, i)
            file_name = f"{i:05d}.png"
            Image.fromarray(image).save(folder / "images" / file_name, compress_level=1)
            images.append({"id": i + 1, "file_name": file_name, "height": image.shape[0], "width": image.shape[1]})
            for category, mask in objects:
                annotations.append(coco_annotation(len(annotations) + 1, i + 1, category + 1, mask))
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(self.classes)]
        info = {"description": f"tellapart {self.name}_{split}, version {self.version}, seed {seed}"}
        content = {"info": info, "images": images, "annotations": annotations, "categories": categories}
        (folder / "instances.json").write_text(json.dumps(content))

    def register(self) -> None:
        """Register all splits in Detectron2's catalogs.

        Images are drawn at the first ``DatasetCatalog.get`` or ``read_dataset``. Call ``read_dataset`` before you
        read the ``json_file`` of the metadata, for example for an evaluator that is built before any loader.
        """
        root = cache_dir()
        for split in self.splits:
            name = f"{self.name}_{split}"

            def ensure(split: str = split) -> tuple[str, str]:
                return self.ensure(split, root)

            folder = self.folder(split, root)
            json_file, image_root = str(folder / "instances.json"), str(folder / "images")
            DatasetCatalog.register(name, CocoFolder(name, json_file, image_root, ensure))
            MetadataCatalog.get(name).set(
                json_file=json_file,
                image_root=image_root,
                evaluator_type="coco",
                thing_classes=list(self.classes),
                thing_colors=[list(color) for color in self.colors],
                thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(self.classes))},
            )
