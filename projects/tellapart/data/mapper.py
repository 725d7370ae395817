"""Mappers of dataset dicts: images of any kind are read, unreadable ones are marked, and none shrinks to nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform

from .image_reading import ImageReader, reading_with

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
            return " ".join(str(error).split()) or type(error).__name__
        return ""


class AtLeastOnePixel(T.Augmentation):
    """A resizing augmentation whose result has at least one pixel per side, for images of 3000 x 2 pixels."""

    def __init__(self, resize: T.Augmentation) -> None:
        super().__init__()
        self.resize = resize

    def get_transform(self, image: np.ndarray) -> Transform:
        """Return the transform of the wrapped augmentation, or one to a size without a side of 0 pixels."""
        transform = self.resize.get_transform(image)
        if min(getattr(transform, "new_h", 1), getattr(transform, "new_w", 1)) >= 1:
            return transform
        return T.ResizeTransform(*image.shape[:2], max(1, transform.new_h), max(1, transform.new_w), transform.interp)

    def __repr__(self) -> str:
        return repr(self.resize)


def build_mapper(cfg: CfgNode, is_train: bool) -> DatasetMapper:
    """Return Detectron2's mapper of a config, whose resizing keeps at least one pixel per side."""
    mapper = DatasetMapper(cfg, is_train)
    augmentations = [
        AtLeastOnePixel(one) if isinstance(one, T.ResizeShortestEdge) else one for one in mapper.augmentations.augs
    ]
    mapper.augmentations = T.AugmentationList(augmentations)
    return mapper
