"""Map dataset dicts to the model's inputs."""

from __future__ import annotations

import copy
import logging

import numpy as np
import torch
from fvcore.transforms.transform import Transform

from detectron2._missing import not_included
from detectron2.config import configurable

from . import detection_utils as utils
from . import transforms as T


class DatasetMapper:
    """Read the image of a dataset dict, augment it with its annotations, and convert them to tensors.

    Args:
        is_train: return annotations too.
        augmentations: augmentations or fixed transforms, applied in this order.
        image_format: see `detection_utils.read_image`.
        use_instance_mask: return masks too.
        instance_mask_format: "polygon" or "bitmask".
        recompute_boxes: replace the boxes by tight ones around the masks. After a crop they would be too large.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: list[T.Augmentation | Transform],
        image_format: str,
        use_instance_mask: bool = False,
        instance_mask_format: str = "polygon",
        recompute_boxes: bool = False,
    ) -> None:
        assert use_instance_mask or not recompute_boxes, "recompute_boxes is True: set use_instance_mask too"
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.recompute_boxes = recompute_boxes
        mode = "training" if is_train else "inference"
        logging.getLogger(__name__).info(f"[DatasetMapper] Augmentations used in {mode}: {augmentations}")

    @classmethod
    def from_config(cls, cfg, is_train: bool = True) -> dict:
        """Return the constructor's arguments for a config.

        Raises:
            NotImplementedError: the config asks for keypoints or for proposals from files.
        """
        for key in ("KEYPOINT_ON", "LOAD_PROPOSALS"):
            if cfg.MODEL[key]:
                raise not_included(f"MODEL.{key} True")
        augs = utils.build_augmentation(cfg, is_train)
        crop = cfg.INPUT.CROP.ENABLED and is_train
        if crop:
            augs.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        return {
            "is_train": is_train,
            "augmentations": augs,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "recompute_boxes": crop and cfg.MODEL.MASK_ON,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """Map one dataset dict, which is not changed.

        Returns:
            A copy with "image", the augmented image (uint8 (C, H, W)). In training, "instances" replace the annotations
            (see `detection_utils.annotations_to_instances`), without crowds and without empty instances.

        Raises:
            OSError: the image cannot be read.
            SizeMismatchError: the image has another size than the dataset dict says.
        """
        dataset_dict = copy.deepcopy(dataset_dict)
        image = utils.read_image(dataset_dict["file_name"], format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        aug_input = T.AugInput(image)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        # Workers send tensors through shared memory, whereas arrays would be pickled.
        planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        dataset_dict["image"] = torch.as_tensor(np.array(planes, order="C"))
        annotations = dataset_dict.pop("annotations", None)
        if self.is_train and annotations is not None:
            dataset_dict["instances"] = self._instances(annotations, transforms, image.shape[:2])
        return dataset_dict

    def _instances(self, annotations: list[dict], transforms: Transform, image_size: tuple[int, int]):
        annos = []
        for annotation in annotations:
            if annotation.get("iscrowd", 0) == 0:
                annotation.pop("keypoints", None)
                if not self.use_instance_mask:
                    annotation.pop("segmentation", None)
                annos.append(utils.transform_instance_annotations(annotation, transforms, image_size))
        instances = utils.annotations_to_instances(annos, image_size, mask_format=self.instance_mask_format)
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return utils.filter_empty_instances(instances)
