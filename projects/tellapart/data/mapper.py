"""Mappers of dataset dicts: images of any kind are read, unreadable ones are marked, and none shrinks to nothing."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform

from .augmentations import build_augmentations
from .image_reading import ImageReader, reading_with
from .worker_signals import stop_with_the_main_process

# Key of a sample whose image cannot be read; its value is the reason.
UNREADABLE = "unreadable"


class GuardedMapper:
    """A mapper (dataset dict -> model input) that marks unreadable images instead of raising an error.

    ``loader.guard`` removes the marked samples in the main process, so the error becomes one message, whichever worker
    found it. Other errors of the mapper are raised. The mapper reads images with ``reader``.
    """

    def __init__(self, mapper: Callable[[dict], dict], reader: ImageReader) -> None:
        self.mapper = mapper
        self.reader = reader

    def __call__(self, dataset_dict: dict) -> dict:
        stop_with_the_main_process(os.getpid())
        try:
            with reading_with(self.reader):
                return self.mapper(dataset_dict)
        except Exception:
            problem = self._reading_problem(dataset_dict)  # reads the image a second time, so only after an error
            if not problem:
                raise
            return {"file_name": dataset_dict["file_name"], UNREADABLE: problem}

    def _reading_problem(self, dataset_dict: dict) -> str:
        """Return why the image of a dataset dict cannot be read, or ""."""
        try:
            image = self.reader(dataset_dict["file_name"])
            utils.check_image_size(dataset_dict, image)
        except Exception as error:  # Pillow raises many types of errors for broken files
            problem = str(error).removeprefix(f"cannot read the image {dataset_dict['file_name']}: ")
            return " ".join(problem.split()) or type(error).__name__
        return ""


class ResizeAnyImage(T.Augmentation):
    """A resizing augmentation for images of any size and number of channels.

    The result has at least one pixel per side, for images of 3000 x 2 pixels. Images with other than 1 or 3 channels
    are resized channel by channel: Pillow takes a fourth channel as the transparency of the others.
    """

    def __init__(self, resize: T.Augmentation) -> None:
        super().__init__()
        self.resize = resize

    def get_transform(self, image: np.ndarray) -> Transform:
        """Return the transform of the wrapped augmentation, or one like it for an unusual image."""
        transform = self.resize.get_transform(image)
        if not isinstance(transform, T.ResizeTransform):
            return transform
        size = max(1, transform.new_h), max(1, transform.new_w)
        resize = ResizeChannels if image.ndim == 3 and image.shape[2] not in (1, 3) else T.ResizeTransform
        return resize(*image.shape[:2], *size, transform.interp)

    def __repr__(self) -> str:
        return repr(self.resize)


class ResizeChannels(T.ResizeTransform):
    """Detectron2's resizing of images (H, W, C), channel by channel."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Return the resized image; one of shape (H, W), such as a mask, is resized as usual."""
        resize = functools.partial(super().apply_image, interp=interp)
        if img.ndim == 2:
            return resize(img)
        return np.stack([resize(np.ascontiguousarray(channel)) for channel in np.moveaxis(img, 2, 0)], axis=2)


def build_mapper(cfg: CfgNode, is_train: bool) -> DatasetMapper:
    """Return Detectron2's mapper of a config, whose resizing takes images of any size and number of channels."""
    mapper = DatasetMapper(cfg, is_train)
    augmentations = [
        ResizeAnyImage(one) if isinstance(one, T.ResizeShortestEdge) else one for one in mapper.augmentations.augs
    ]
    mapper.augmentations = T.AugmentationList([*augmentations, *(build_augmentations(cfg) if is_train else ())])
    return mapper
