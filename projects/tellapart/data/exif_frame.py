"""Notice annotations that were drawn on the stored pixels of an image, before its EXIF orientation."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable

import numpy as np
from pycocotools import mask as coco_mask

from .annotations import annotation_to_rle
from .image_reading import ImageInfo, ImageReader
from .orientation import apply_orientation

# The masks must explain this much more of the gray values' variance in the stored frame, as a factor and as a share.
_MIN_RATIO, _MIN_GAIN = 2.0, 0.02
_MARGIN_PIXELS = 2


def files_with_turned_annotations(images: Iterable[tuple[dict, ImageInfo]], reader: ImageReader) -> list[str]:
    """Return the images whose annotations seem to belong to the stored pixels, before the EXIF orientation.

    Masks that reach over the edge of the turned image, but not of the stored one, give them away; for orientations
    that keep the size, gray values that the masks separate better in the stored image.

    Args:
        images: dataset dicts, and what the headers of their files say.
        reader: applies the orientation.
    """
    if reader.options.exif != "apply":
        return []
    stored_reader = ImageReader(dataclasses.replace(reader.options, exif="ignore"))
    found = []
    for record, info in images:
        annotations = [one for one in record.get("annotations", ()) if one.get("segmentation")]
        if info.orientation == 1 or not annotations:
            continue
        if (info.width, info.height) != (info.raw_width, info.raw_height):
            if _reaches_out(annotations, info):
                found.append(record["file_name"])
            continue
        with contextlib.suppress(OSError):  # the loaders name it
            stored = stored_reader.picture(record["file_name"])
            masks = coco_mask.merge([annotation_to_rle(one, stored.shape[:2]) for one in annotations])
            turned = apply_orientation(stored, info.orientation)
            if fit_stored_frame_better(stored, turned, coco_mask.decode(masks) != 0):
                found.append(record["file_name"])
    return found


def _reaches_out(annotations: list[dict], info: ImageInfo) -> bool:
    """Return whether polygons are outside of the turned image, and all inside of the stored one."""
    polygons = [np.reshape(p, (-1, 2)) for one in annotations if isinstance(one["segmentation"], list)
                for p in one["segmentation"]]  # fmt: skip
    if not polygons:
        return False
    x, y = np.concatenate(polygons).max(0) - _MARGIN_PIXELS
    return bool((x > info.width or y > info.height) and x <= info.raw_width and y <= info.raw_height)


def fit_stored_frame_better(stored: np.ndarray, turned: np.ndarray, masks: np.ndarray) -> bool:
    """Return whether masks fit an image's stored pixels clearly better than the turned ones.

    Masks of objects separate bright from dark pixels, or one texture from another, at least a little. The share of the
    variance of the gray values that the masks explain (eta squared) is compared between the two frames. It is a hint,
    not a proof.

    Args:
        stored: the image as it is stored, (H, W) or (H, W, C).
        turned: the image after its EXIF orientation, of the same height and width.
        masks: bool (H, W), the union of all masks.
    """
    in_stored, in_turned = _explained_variance(stored, masks), _explained_variance(turned, masks)
    return in_stored > _MIN_RATIO * in_turned and in_stored > in_turned + _MIN_GAIN


def _explained_variance(image: np.ndarray, masks: np.ndarray) -> float:
    """Return the share of the variance of the gray values between the pixels inside and outside of masks, 0 to 1."""
    gray = image.astype(np.float64)
    gray = gray.mean(2) if gray.ndim == 3 else gray
    variance, share = gray.var(), masks.mean()
    if not variance or share in (0, 1):
        return 0.0
    return float((gray[masks].mean() - gray[~masks].mean()) ** 2 * share * (1 - share) / variance)
