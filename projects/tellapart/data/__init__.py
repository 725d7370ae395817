"""Data sets that come with the plug-in, any COCO folder of one's own, and the loader that can be resumed exactly."""

from .coco_folder import check_coco_dataset, check_dataset, parse_register_flag, register_coco_folder
from .prepared import VOC_CLASSES, VOC_COLORS, register_prepared
from .synthetic import DOTS, DOTS_JITTERED, SHAPES, WORMS

__all__ = ["check_coco_dataset", "check_dataset", "parse_register_flag", "register_coco_folder"]

for synthetic_dataset in (SHAPES, DOTS, DOTS_JITTERED, WORMS):
    synthetic_dataset.register()
register_prepared("bbbc010", {"bbbc010_train": "train", "bbbc010_test": "test"}, ["worm"], [[240, 160, 50]])
register_prepared("dsb2018", {"nuclei_train": "train", "nuclei_val": "val"}, ["nucleus"], [[90, 170, 240]])
register_prepared("voc_sds", {"voc_sds_train": "train", "voc_sds_val": "val"}, VOC_CLASSES, VOC_COLORS, "img")
