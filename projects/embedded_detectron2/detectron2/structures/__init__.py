"""Boxes, masks, images and the instances that hold them together."""
# ruff: noqa: F401 (re-exports)

from .boxes import Boxes, BoxMode, pairwise_iou
from .image_list import ImageList
from .instances import Instances
from .masks import BitMasks, PolygonMasks, ROIMasks, polygons_to_bitmask
