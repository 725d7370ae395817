"""COCO-format datasets and the names that are registered from the start."""

from . import builtin  # noqa: F401  registers
from .coco import convert_to_coco_json, load_coco_json, register_coco_instances

__all__ = ["convert_to_coco_json", "load_coco_json", "register_coco_instances"]
