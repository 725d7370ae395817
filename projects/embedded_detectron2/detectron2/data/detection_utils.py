"""Functions for dataset mappers: read images, and convert annotations to `Instances`."""

from __future__ import annotations

import logging

import numpy as np
import pycocotools.mask as mask_util
import torch
from fvcore.transforms.transform import Transform, TransformList
from PIL import Image, ImageOps

from detectron2._missing import not_included
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks, polygons_to_bitmask
from detectron2.utils.file_io import PathManager

from . import transforms as T
from .catalog import MetadataCatalog


class SizeMismatchError(ValueError):
    """An image has another size than its dataset dict says."""


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """Convert a PIL image to an array (H, W, C) in ``format``, a mode of PIL or "BGR".

    None keeps the image's mode, and then an image of mode "L" becomes an array (H, W).
    """
    if format is not None:
        image = image.convert("RGB" if format == "BGR" else format)
    array = np.asarray(image)
    if format == "BGR":
        array = array[:, :, ::-1]
    return array[:, :, None] if format == "L" else array


def convert_image_to_rgb(image: np.ndarray | torch.Tensor, format: str | None) -> np.ndarray:
    """Convert an image (H, W, C) in ``format`` to an RGB array (H, W, 3) of the same dtype."""
    if isinstance(image, torch.Tensor):
        image = image.cpu().numpy()
    if format == "BGR":
        return image[:, :, [2, 1, 0]]
    if format == "L":
        return np.repeat(image[:, :, :1], 3, axis=2)
    return np.asarray(Image.fromarray(image, mode=format).convert("RGB")) if format not in (None, "RGB") else image


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image file and apply its EXIF orientation.

    Returns:
        uint8 (H, W, C) in ``format``, see `convert_PIL_to_numpy`.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the file is not an image or is truncated. The message names the file.
    """
    with PathManager.open(file_name, "rb") as f:
        try:
            return convert_PIL_to_numpy(ImageOps.exif_transpose(Image.open(f)), format)
        except (OSError, SyntaxError) as e:  # PIL raises SyntaxError for some broken files
            raise OSError(f"cannot read the image {file_name}: {e}") from e


def check_image_size(dataset_dict: dict, image: np.ndarray) -> None:
    """Check "width" and "height" of ``dataset_dict`` against the image, and set them if they are missing.

    Raises:
        SizeMismatchError: the image has another size.
    """
    height, width = image.shape[:2]
    expected = (dataset_dict.setdefault("width", width), dataset_dict.setdefault("height", height))
    if expected != (width, height):
        where = f" for image {dataset_dict['file_name']}" if "file_name" in dataset_dict else ""
        raise SizeMismatchError(
            f"Mismatched image shape{where}, got {(width, height)}, expect {expected}. "
            "Please check the width/height in your annotation."
        )


def transform_instance_annotations(
    annotation: dict, transforms: Transform | list[Transform], image_size: tuple[int, int]
) -> dict:
    """Transform the box and the segmentation of an annotation in place, and return the annotation.

    Afterwards "bbox" is an array (4,), XYXY, clipped to the image. Polygons in "segmentation" become a list of flat
    arrays, and an RLE becomes a mask (H, W).

    Args:
        annotation: dict with "bbox", "bbox_mode" and optionally "segmentation".
        transforms: applied in this order.
        image_size: (height, width) of the transformed image.

    Raises:
        ValueError: the segmentation is neither a list of polygons nor an RLE.
        NotImplementedError: the annotation has keypoints.
    """
    if "keypoints" in annotation:
        raise not_included('Transforming "keypoints" of annotations')
    if isinstance(transforms, (tuple, list)):
        transforms = TransformList(transforms)
    bbox = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    bbox = transforms.apply_box(np.array([bbox]))[0].clip(min=0)
    annotation["bbox"] = np.minimum(bbox, list(image_size + image_size)[::-1])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS

    segm = annotation.get("segmentation")
    if isinstance(segm, list):
        polygons = [np.asarray(p).reshape(-1, 2) for p in segm]
        annotation["segmentation"] = [p.reshape(-1) for p in transforms.apply_polygons(polygons)]
    elif isinstance(segm, dict):
        mask = transforms.apply_segmentation(mask_util.decode(segm))
        assert tuple(mask.shape[:2]) == tuple(image_size), f"mask has the shape {mask.shape}, expected {image_size}"
        annotation["segmentation"] = mask
    elif segm is not None:
        raise ValueError(
            f"Cannot transform segmentation of type '{type(segm)}'! Supported types are: "
            "polygons as list[list[float] or ndarray], COCO-style RLE as a dict."
        )
    return annotation


def _to_bitmask(segm, image_size: tuple[int, int]) -> np.ndarray:
    """Convert a segmentation of any supported type to a mask (H, W)."""
    if isinstance(segm, list):
        return polygons_to_bitmask(segm, *image_size)
    if isinstance(segm, dict):
        return mask_util.decode(segm)
    if isinstance(segm, np.ndarray):
        assert segm.ndim == 2, f"segmentation has {segm.ndim} dimensions, expected 2"
        return segm
    raise ValueError(
        f"Cannot convert segmentation of type '{type(segm)}' to BitMasks! Supported types are: polygons as "
        "list[list[float] or ndarray], COCO-style RLE as a dict, or a binary mask as a 2D numpy array (H, W)."
    )


def annotations_to_instances(annos: list[dict], image_size: tuple[int, int], mask_format: str = "polygon") -> Instances:
    """Convert annotations, after `transform_instance_annotations`, to the ground truth for a model.

    Args:
        annos: annotations of one image.
        image_size: (height, width) of the image.
        mask_format: "polygon" or "bitmask".

    Returns:
        ``Instances`` with "gt_boxes" (`Boxes`), "gt_classes" (int64 (N,)) and, if the annotations have segmentations,
        "gt_masks" (`PolygonMasks` or `BitMasks`).

    Raises:
        ValueError: a segmentation cannot be converted to ``mask_format``.
        NotImplementedError: an annotation has keypoints.
    """
    if any("keypoints" in a for a in annos):
        raise not_included('Making instances of "keypoints"')
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annos]
    target = Instances(image_size)
    target.gt_boxes = Boxes(torch.as_tensor(np.array(boxes).reshape(-1, 4)))
    target.gt_classes = torch.tensor([int(a["category_id"]) for a in annos], dtype=torch.int64)
    if len(annos) and "segmentation" in annos[0]:
        segms = [a["segmentation"] for a in annos]
        if mask_format == "polygon":
            if not all(isinstance(s, list) for s in segms):
                raise ValueError(
                    "Failed to use mask_format=='polygon' from the given annotations! "
                    "Masks given as RLE need INPUT.MASK_FORMAT 'bitmask'."
                )
            target.gt_masks = PolygonMasks(segms)
        else:
            assert mask_format == "bitmask", f"mask_format is {mask_format!r}, expected 'polygon' or 'bitmask'"
            target.gt_masks = BitMasks(np.stack([_to_bitmask(s, image_size) for s in segms]))
    return target


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> Instances | tuple[Instances, torch.Tensor]:
    """Remove instances with an empty box or an empty mask.

    Args:
        instances: with "gt_boxes" and optionally "gt_masks".
        by_box: remove instances whose box has a side of at most ``box_threshold`` pixels.
        by_mask: remove instances whose mask is empty.
        return_mask: return a bool tensor (N,) as well: which instances are kept.
    """
    assert by_box or by_mask, "by_box and by_mask are both False, expected at least one"
    keep = torch.ones(len(instances), dtype=torch.bool)
    if by_box:
        keep &= instances.gt_boxes.nonempty(threshold=box_threshold)
    if by_mask and instances.has("gt_masks"):
        keep &= instances.gt_masks.nonempty()
    return (instances[keep], keep) if return_mask else instances[keep]


def check_metadata_consistency(key: str, dataset_names: list[str]) -> None:
    """Check that all datasets have the same value of the metadata ``key``.

    Raises:
        AttributeError: a dataset does not have it.
        ValueError: the values differ.
    """
    values = [getattr(MetadataCatalog.get(name), key) for name in dataset_names]
    differing = [i for i, v in enumerate(values) if v != values[0]]
    for i in differing:
        logger = logging.getLogger(__name__)
        logger.error(f"Metadata '{key}' for dataset '{dataset_names[i]}' is '{values[i]}'")
        logger.error(f"Metadata '{key}' for dataset '{dataset_names[0]}' is '{values[0]}'")
    if differing:
        raise ValueError(f"Datasets have different metadata '{key}'!")


def build_augmentation(cfg, is_train: bool) -> list[T.Augmentation]:
    """Return the default augmentations of a config: resize and, in training, flip."""
    if not is_train:
        return [T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]
    sizes, style = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    augmentation = [T.ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TRAIN, style)]
    flip = cfg.INPUT.RANDOM_FLIP
    if flip != "none":
        augmentation.append(T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
    return augmentation
