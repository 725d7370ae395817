"""Datasets in COCO's format, and the names that are registered from the start."""
# ruff: noqa: F401 (re-exports)

from . import builtin  # registers its datasets
from .coco import convert_to_coco_json, load_coco_json, register_coco_instances
