"""Building blocks of networks: convolutions, norms, ROIAlign, NMS, pasting of masks."""
# ruff: noqa: F401 (re-exports)

from .batch_norm import FrozenBatchNorm2d, get_norm
from .blocks import CNNBlockBase
from .mask_ops import paste_masks_in_image
from .nms import batched_nms, nms
from .roi_align import ROIAlign
from .shape_spec import ShapeSpec
from .wrappers import Conv2d, ConvTranspose2d, Linear, cat, cross_entropy, move_device_like
