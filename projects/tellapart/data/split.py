"""Split a COCO file by image into parts with about the same share of every category."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from .coco_json import parse_coco_json
from .content import DatasetContent


def check_fractions(fractions: Sequence[float], num_images: int) -> None:
    """Check that every part gets an image.

    Raises:
        InputError: the fractions are not positive, do not add up to 1, or are too small for the number of images.
    """
    if len(fractions) < 2 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"fractions are {' '.join(map(str, fractions))}, expected two or more that add up to 1")
    if num_images < len(fractions):
        raise InputError(f"there are {num_images} images, too few for {len(fractions)} parts")


def stratified_parts(counts: np.ndarray, fractions: Sequence[float], seed: int) -> np.ndarray:
    """Assign images to parts so that each part has its share of the images and of the objects of each category.

    Iterative stratification (Sechidis et al., 2011), with numbers of objects instead of labels: images with rare
    categories and many objects come first, and each goes to the part that lacks most of its objects.

    Args:
        counts: int (N, C), objects per image and category.
        fractions: of the P parts, see :func:`check_fractions`.
        seed: of the random order of equal images.

    Returns:
        int (N,), the part of each image. Every part has at least one.
    """
    share = np.asarray(fractions, dtype=np.float64)
    free = _sizes(len(counts), share)
    total = np.maximum(counts.sum(0), 1)
    weights = counts / total  # the share of each category's objects
    lacking = np.repeat(share[:, None], counts.shape[1], 1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-weights[order].max(1, initial=0.0), kind="stable")]
    parts = np.zeros(len(counts), np.int64)
    for i in order:
        need = (weights[i] * lacking / share[:, None]).sum(1) if counts[i].any() else free / share
        need = np.where(free > 0, need, -np.inf)
        best = np.flatnonzero(need == need.max())
        part = best[np.argmax(free[best] / share[best])]
        parts[i] = part
        free[part] -= 1
        lacking[part] -= weights[i]
    return parts


def _sizes(number: int, share: np.ndarray) -> np.ndarray:
    """Return the number of images of each part: rounded shares, at least 1, which add up to ``number``."""
    sizes = np.maximum(np.floor(number * share), 1).astype(np.int64)
    while sizes.sum() != number:
        difference = number * share - sizes
        if sizes.sum() < number:
            sizes[np.argmax(difference)] += 1
        else:
            sizes[np.argmin(np.where(sizes > 1, difference, np.inf))] -= 1
    return sizes


def split_coco(content: dict, fractions: Sequence[float], seed: int = 0) -> list[dict]:
    """Split the content of a COCO file by image.

    Args:
        content: with ``images`` and ``annotations``; other entries are copied to every part.
        fractions: of the parts.
        seed: see :func:`stratified_parts`.

    Raises:
        InputError: see :func:`check_fractions`.
    """
    images, annotations = content["images"], content["annotations"]
    check_fractions(fractions, len(images))
    rows = {image["id"]: i for i, image in enumerate(images)}
    columns = {category: i for i, category in enumerate(dict.fromkeys(one["category_id"] for one in annotations))}
    counts = np.zeros((len(images), max(len(columns), 1)), np.int64)
    for one in annotations:
        if one["image_id"] in rows:
            counts[rows[one["image_id"]], columns[one["category_id"]]] += 1
    parts = stratified_parts(counts, fractions, seed)
    ids = [{image["id"] for image, part in zip(images, parts) if part == p} for p in range(len(fractions))]
    return [
        {
            **content,
            "images": [image for image in images if image["id"] in kept],
            "annotations": [one for one in annotations if one["image_id"] in kept],
        }
        for kept in ids
    ]


def split_dataset(content: DatasetContent, fractions: Sequence[float], seed: int = 0) -> list[dict]:
    """Split a data set as it was read: see :func:`split_coco`.

    Raises:
        InputError: it is not from a COCO file with annotations; or see :func:`check_fractions`.
    """
    if not content.json_file or not content.has_annotations:
        raise InputError(f"{content.where} cannot be split: expected a COCO file with annotations")
    return split_coco(content.coco or parse_coco_json(content.where, content.json_file)[0], fractions, seed)
