"""Label images (one value per object) and images of single masks, as Cellpose, StarDist and ImageJ write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from pycocotools import mask as coco_mask

TIFF_ENDINGS = (".tif", ".tiff")


def read_labels(path: Path) -> np.ndarray:
    """Read a label image or a mask: 0 is background, every other value is one object.

    Palettes are resolved: the black color is the background, or index 0 if no color that occurs is black. In an image
    with colors, every color but black is one object; transparency is ignored.

    Returns:
        int64 (H, W).

    Raises:
        OSError: the file is not an image.
        ValueError: the image has several pages, or values that are negative or not whole numbers.
    """
    if path.suffix.lower() in TIFF_ENDINGS:
        try:
            pixels = tifffile.imread(path)
        except Exception as error:  # tifffile raises many types of errors for broken files
            raise OSError(f"{type(error).__name__}: {error}") from error
        pixels = np.squeeze(pixels)
    else:
        with Image.open(path) as image:
            pixels = _palette_labels(image) if image.mode in ("P", "PA") else np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[2] in (2, 3, 4) and pixels.dtype == np.uint8:
        colors = pixels[..., : pixels.shape[2] - (pixels.shape[2] in (2, 4))].astype(np.int64)
        pixels = (colors * (1 << 8 * np.arange(colors.shape[2]))[::-1]).sum(2)
        if colors.shape[2] == 3 and (colors == colors[..., :1]).all():
            pixels = colors[..., 0]  # gray
    if pixels.ndim != 2:
        raise ValueError(f"it has the shape {pixels.shape}, expected one page of height and width")
    if pixels.dtype.kind == "f" and np.isfinite(pixels).all() and (pixels == np.round(pixels)).all():
        pixels = pixels.astype(np.int64)
    if pixels.dtype.kind not in "biu" or pixels.min(initial=0) < 0:
        raise ValueError(f"it has pixels of type {pixels.dtype} that are no labels, expected whole numbers from 0")
    return pixels.astype(np.int64)


def _palette_labels(image: Image.Image) -> np.ndarray:
    indices = np.asarray(image.convert("P") if image.mode == "PA" else image)
    used = np.unique(indices)
    colors = np.array(image.convert("P").getpalette("RGB") or [0] * 768).reshape(-1, 3)
    black = [i for i in used if i < len(colors) and not colors[i].any()]
    if not black:
        return indices
    labels = np.arange(1, 257)
    labels[black] = 0
    return labels[indices]


def label_rles(labels: np.ndarray) -> list[dict]:
    """Return the compressed RLE of every object, in the order of the labels.

    Args:
        labels: whole numbers, (H, W); 0 is background.
    """
    flat = labels.ravel(order="F")
    if not flat.size:
        return []
    starts = np.concatenate(([0], np.flatnonzero(np.diff(flat)) + 1))
    lengths = np.diff(np.append(starts, flat.size))
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    order = order[values[order] != 0]
    groups = np.split(order, np.flatnonzero(np.diff(values[order])) + 1) if order.size else []
    rles = []
    for runs in groups:
        ends = starts[runs] + lengths[runs]
        gaps = starts[runs] - np.concatenate(([0], ends[:-1]))
        counts = [*np.stack((gaps, lengths[runs]), 1).ravel().tolist(), int(flat.size - ends[-1])]
        rles.append(coco_mask.frPyObjects({"size": list(labels.shape), "counts": counts}, *labels.shape))
    return rles


def mask_values(labels: np.ndarray) -> str:
    """Return "" if the file of one object is a mask or a label image, else what it is instead.

    Args:
        labels: of :func:`read_labels`. One value other than 0 is a mask; the values 1 ... n, or values above 255, are a
            label image. Other gray values are neither: a resized or lossy mask has them.
    """
    values = np.unique(labels)
    values = values[values != 0]
    if not len(values):
        return "is empty"
    if len(values) == 1 or values[-1] > 255 or (values == np.arange(1, len(values) + 1)).all():
        return ""
    return (
        f"has {len(values)} values such as {values[0]} and {values[-1]}, expected 0 and one other value (a mask), or "
        "1, 2, ... (a label image)"
    )
