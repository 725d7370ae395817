"""Data sets that come with the plug-in, any data of one's own, and the loader that can be resumed exactly."""

from .coco_folder import parse_register_flag, register_coco_folder
from .prepared import VOC_CLASSES, VOC_COLORS, register_prepared
from .reader import read_dataset
from .synthetic import DOTS, DOTS_JITTERED, OBJECTS, SHAPES, WORMS

__all__ = ["parse_register_flag", "read_dataset", "register_coco_folder"]

for synthetic_dataset in (SHAPES, DOTS, DOTS_JITTERED, WORMS, OBJECTS):
    synthetic_dataset.register()
register_prepared("bbbc010", {"bbbc010_train": "train", "bbbc010_test": "test"}, ["worm"], [[240, 160, 50]])
register_prepared("dsb2018", {"nuclei_train": "train", "nuclei_val": "val"}, ["nucleus"], [[90, 170, 240]])
register_prepared("voc_sds", {"voc_sds_train": "train", "voc_sds_val": "val"}, VOC_CLASSES, VOC_COLORS, "img")
