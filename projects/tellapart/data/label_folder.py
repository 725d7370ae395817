"""Folders of label images, of Cellpose, StarDist, ImageJ or scikit-image, as data sets in COCO format."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from ..errors import InputError, first_few
from ..files import cache_dir, write_json
from .coco_folder import rle_annotation
from .image_reading import ImageReader
from .label_images import label_rles, mask_values
from .prepared import Problems

ENDINGS = {".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
LABEL_SUFFIXES = ("_cp_masks", "_masks", "_mask", "_labels", "_label")
LABEL_FOLDERS = ("masks", "labels", "mask", "label", "instances")
logger = logging.getLogger(__name__)


def find_pairs(images: Path, labels: Path | None, problems: Problems) -> list[tuple[Path, list[Path]]]:
    """Return every image with its label image, or with its files of single masks."""
    for folder in (images, labels):
        if folder is not None and not folder.is_dir():
            raise InputError(f"there is no folder {folder}")
    found = _image_files(images)
    if labels is None or labels.resolve() == images.resolve():
        labels = images
        found = [path for path in found if not path.stem.endswith(LABEL_SUFFIXES)]
    by_stem = {path.stem: path for path in _image_files(labels)}
    pairs, without = [], []
    for image in found:
        names = [image.stem + suffix for suffix in LABEL_SUFFIXES] + [image.stem] * (labels != images)
        single = next((by_stem[name] for name in names if name in by_stem), None)
        folder = labels / image.stem
        if single is not None:
            pairs.append((image, [single]))
        elif folder.is_dir():
            pairs.append((image, _image_files(folder)))
        else:
            without.append(image.name)
    if without:
        hint = ""
        if list(labels.glob("*_seg.npy")):
            hint = "; Cellpose's *_seg.npy are pickles, which may run code: save its masks as PNG or TIFF (--save_png)"
        problems.add(f"{len(without)} of {len(found)} images have no labels in {labels}: {first_few(without)}{hint}")
    if not found:
        problems.add(f"there is no image in {images}")
    return pairs


def _image_files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir()
        if path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file()
    )  # fmt: skip


def write_coco_of_labels(
    images: Path, labels: Path | None, output: Path, category: str, description: str = ""
) -> tuple[int, int]:
    """Read label images and write a COCO JSON file with RLE masks.

    Args:
        images: folder of the images.
        labels: folder of label images, or of one folder of masks per image; None: the label images are beside the
            images, see ``LABEL_SUFFIXES``.
        output: the JSON file.
        category: the name of the only category.
        description: text for the file's ``info``.

    Returns:
        The number of images and of objects.

    Raises:
        InputError: lists images without labels, files that cannot be read, and sizes that differ.
    """
    problems, reader = Problems(str(images)), ImageReader()
    content: dict = {"images": [], "annotations": [], "categories": [{"id": 1, "name": category}]}
    content["info"] = {"description": description}
    pairs = find_pairs(images, labels, problems)
    num_empty = 0
    for number, (image, files) in enumerate(pairs, 1):
        try:
            info = reader.describe(str(image))
        except (OSError, InputError) as error:
            problems.add(str(error))
            continue
        content["images"].append({"id": number, "file_name": image.name, "height": info.height, "width": info.width})
        before = len(content["annotations"])
        for path in files:
            for rle in _read_rles(path, (info.height, info.width), len(files) > 1, problems):
                annotation_id = len(content["annotations"]) + 1
                content["annotations"].append(rle_annotation(annotation_id, number, 1, rle))
        num_empty += len(content["annotations"]) == before
        if number % 100 == 0:
            logger.info("%d of %d images", number, len(pairs))
    problems.check()
    if num_empty:
        logger.warning("%d of %d images have no object: they are kept as background", num_empty, len(pairs))
    write_json(output, content)
    return len(content["images"]), len(content["annotations"])


def _read_rles(path: Path, size: tuple[int, int], is_single: bool, problems: Problems) -> list[dict]:
    """Return the masks of a file as RLE; ``is_single`` if the file is meant to have one mask."""
    labels = problems.read_labels(path)
    if labels is None:
        return []
    problem = mask_values(labels) if is_single else ""
    if labels.shape != size:
        problem = f"is {labels.shape[1]} x {labels.shape[0]} pixels, its image {size[1]} x {size[0]}"
    if problem:
        problems.add(f"{path.name} {problem}")
        return []
    return label_rles(labels)


def coco_file_of_labels(images: Path, labels: Path | None) -> Path:
    """Return the COCO JSON file of label images in the cache folder; write it if it is missing or out of date.

    Raises:
        InputError: see :func:`write_coco_of_labels`.
    """
    folders = [folder.resolve() for folder in (images, labels) if folder is not None]
    name = hashlib.sha256("\n".join(map(str, folders)).encode()).hexdigest()[:8]
    output = cache_dir() / "labels" / f"{folders[0].name}-{name}.json"
    state = _state_of_files(folders)
    if output.is_file() and json.loads(output.read_text())["info"]["description"] == state:
        return output
    num_images, num_objects = write_coco_of_labels(images, labels, output, "object", state)
    logger.info(
        "%s: %d images with %d objects, from label images; written to %s", images, num_images, num_objects, output
    )
    return output


def _state_of_files(folders: list[Path]) -> str:
    """Return a hash that changes when a file in the folders is added, removed or written."""
    digest = hashlib.sha256()
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                stat = path.stat()
                digest.update(f"{path}\n{stat.st_size}\n{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def find_label_folder(folder: Path) -> tuple[Path, Path | None] | None:
    """Return the folders of images and of label images of a data set, or None if there are no label images.

    Known layouts: ``images/`` beside ``masks/`` or ``labels/`` (StarDist), and label images beside the images, named
    as in ``LABEL_SUFFIXES`` (Cellpose); then the second folder is None.
    """
    for name in LABEL_FOLDERS:
        if (folder / "images").is_dir() and (folder / name).is_dir():
            return folder / "images", folder / name
    for images in (folder, folder / "images"):
        if images.is_dir() and any(path.stem.endswith(LABEL_SUFFIXES) for path in _image_files(images)):
            return images, None
    return None
