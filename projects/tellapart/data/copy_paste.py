"""Copy-paste augmentation: instances of one training image are pasted into another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from ..errors import InputError
from .mapper import UNREADABLE

# Probability that an instance of the other image is pasted.
_CHOSEN = 0.5
# Probability that the other image is the same one, with other augmentations: stain, light and background fit then.
_SAME_IMAGE = 0.5


@dataclass(frozen=True)
class CopyPaste:
    """Paste instances of another image, at their pixels, into a training sample (Ghiasi et al., 2021).

    The pasted instances cover what lies below them: its masks lose these pixels, and instances that are covered
    completely are removed. The other image is augmented as usual and then shifted at random.

    Args:
        probability: that instances are pasted into a sample.
    """

    probability: float

    def __call__(self, sample: dict, index: int, num_samples: int, load: Callable[[int], dict | None]) -> dict:
        """Return the sample with pasted instances. Random numbers are numpy's.

        Args:
            sample: a mapper's output: ``image`` (C, H, W) and ``instances`` with ``gt_masks`` as ``BitMasks``.
            index: of its image.
            num_samples: number of training images.
            load: returns another sample, by the index of its image.

        Raises:
            InputError: the sample has no masks, or polygons.
        """
        if np.random.random() >= self.probability:
            return sample
        source = load(index if np.random.random() < _SAME_IMAGE else int(np.random.randint(num_samples)))
        if source is None or UNREADABLE in source or not len(source["instances"]):
            return sample
        for one in (sample, source):
            masks = one["instances"].get("gt_masks") if one["instances"].has("gt_masks") else None
            if len(one["instances"]) and not isinstance(masks, BitMasks):
                raise InputError(
                    "INPUT.AUGMENTATION.COPY_PASTE needs masks as pixels: set INPUT.MASK_FORMAT to bitmask, or "
                    "COPY_PASTE to 0"
                )
        return _paste(sample, source)


def _paste(sample: dict, source: dict) -> dict:
    image, other, instances = sample["image"], source["image"], source["instances"]
    size, source_size = image.shape[1:], other.shape[1:]
    # Where the upper left corner of the source lies in the sample.
    offset = [_offset(length, length - other_length) for length, other_length in zip(size, source_size)]
    low = [max(0, one) for one in offset]
    high = [min(one + length, most) for one, length, most in zip(offset, source_size, size)]
    target = (slice(None), slice(low[0], high[0]), slice(low[1], high[1]))
    part = (slice(None), *(slice(a - one, b - one) for a, b, one in zip(low, high, offset)))
    chosen = torch.as_tensor(np.random.random(len(instances)) < _CHOSEN)
    pasted = torch.zeros((int(chosen.sum()), *size), dtype=torch.bool)
    pasted[target] = instances.gt_masks.tensor[chosen][part]
    is_inside = pasted.flatten(1).any(1)
    pasted, classes = pasted[is_inside], instances.gt_classes[chosen][is_inside]
    if not len(pasted):
        return sample
    covered = pasted.any(0)
    image = image.clone()
    image[target] = torch.where(covered[target[1:]], other[part], image[target])
    return {**sample, "image": image, "instances": _joined(sample["instances"], pasted, classes, covered)}


def _offset(length: int, room: int) -> int:
    """Return a random position at which at least three quarters of the shorter of the two images are used."""
    extra = min(length, length - room) // 4
    return int(np.random.randint(min(0, room) - extra, max(0, room) + extra + 1))


def _joined(below: Instances, pasted: torch.Tensor, classes: torch.Tensor, covered: torch.Tensor) -> Instances:
    """Return the instances that are left visible, and the pasted ones."""
    result = Instances(below.image_size)
    new = BitMasks(pasted)
    boxes, labels, masks = new.get_bounding_boxes().tensor, classes, pasted
    if len(below):
        old = below.gt_masks.tensor
        left = old & ~covered
        is_visible = left.flatten(1).any(1)
        is_cut = (left != old).flatten(1).any(1)
        old_boxes = torch.where(is_cut[:, None], BitMasks(left).get_bounding_boxes().tensor, below.gt_boxes.tensor)
        boxes = torch.cat((old_boxes[is_visible], boxes))
        labels = torch.cat((below.gt_classes[is_visible], labels))
        masks = torch.cat((left[is_visible], masks))
    result.gt_boxes, result.gt_classes, result.gt_masks = Boxes(boxes), labels, BitMasks(masks)
    return result
