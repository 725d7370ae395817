"""Check before training whether the sizes of the objects, after resizing, fit the anchors or windows of the model."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN

from ..data.statistics import Objects, evenly_spread
from ..validation import registry_name_is_a

logger = logging.getLogger(__name__)

_MAX_OBJECTS = 20_000  # compared with the anchors; the share is then known to a percent
SHRUNK = 0.5  # of the median scale of training, below which an image counts as shrunk
_LARGE_SHARE = 0.2  # of the objects, from which there is a warning. COCO in Detectron2's configs is below it.


@dataclass(frozen=True)
class Templates:
    """Boxes that a model compares objects with: the anchors of an RPN, or the windows of InstanceFCN.

    Attributes:
        kind: "anchor" or "window".
        key: the config key of their sizes.
        sizes: float (A, 2), width and height, pixels of the network's input.
        strides: float (A,), the distance between neighbors.
        threshold: IoU below which an object has none, but for the single best one of an RPN.
        size_band: for DeepMask's rule: smallest and largest longer side as fractions of the window's; else None.
    """

    kind: str
    key: str
    sizes: np.ndarray
    strides: np.ndarray
    threshold: float
    size_band: tuple[float, float] | None = None


def size_warnings(cfg: CfgNode, objects: Objects, where: str) -> list[str]:
    """Return warnings about objects that are too small or too large for the model.

    Args:
        cfg: the config.
        objects: of the training sets.
        where: the names of the data sets, for the messages.
    """
    templates = model_templates(cfg)
    if templates is None or not len(objects):
        return []
    index = evenly_spread(len(objects), _MAX_OBJECTS)
    factors = resize_factors(cfg, objects.image_sizes)[:, objects.image_index[index]]
    sides = factors[:, :, None] * objects.sides[index]  # (number of training sizes, objects, 2)
    fits = np.zeros(len(index), dtype=bool)
    for sides_at_size in sides:
        fits |= _fits(sides_at_size, templates)
    lengths = np.sqrt(sides.prod(2))
    share, resized = float((~fits).mean()), f"after resizing (INPUT.MIN_SIZE_TRAIN {_plain(cfg.INPUT.MIN_SIZE_TRAIN)})"
    warnings = []
    if share > _LARGE_SHARE:
        low, middle, high = np.percentile(lengths, [5, 50, 95])
        rule = f"an IoU of at least {templates.threshold:g}"
        if templates.size_band is not None:
            rule = f"a longer side of {templates.size_band[0]:g} to {templates.size_band[1]:g} times its size"
        smallest, largest = np.sqrt(templates.sizes.prod(1))[[0, -1]].round().astype(int)
        warnings.append(
            f"{100 * share:.0f} % of the objects of {where} have no {templates.kind} with {rule}: {resized} the "
            f"objects are {low:.0f} to {high:.0f} px large (median {middle:.0f}, square root of the box area), the "
            f"{templates.kind}s {smallest} to {largest} px; change {templates.key} or INPUT.MIN_SIZE_TRAIN"
        )
    stride = templates.strides.min()
    narrow = float((sides.min(2) < stride).mean())
    if narrow > _LARGE_SHARE:
        warnings.append(
            f"{100 * narrow:.0f} % of the objects of {where} are narrower than one pixel of the finest feature map "
            f"({stride:g} px) {resized}; enlarge the images, or use a finer feature map"
        )
    return warnings


def _plain(value: object) -> str:
    values = np.atleast_1d(value).tolist()
    return str(values[0]) if len(values) == 1 else str(tuple(values))


def resize_factors(cfg: CfgNode, image_sizes: np.ndarray) -> np.ndarray:
    """Return by which factors training images are resized, as Detectron2's ``ResizeShortestEdge`` does.

    With ``INPUT.CROP`` the crop is resized. A random size of the crop counts as its mean.

    Args:
        cfg: the config.
        image_sizes: int (N, 2), height and width.

    Returns:
        float (K, N), for K sizes of ``INPUT.MIN_SIZE_TRAIN``, or its smallest and largest if it is a range.
    """
    sizes = image_sizes.astype(np.float64)
    crop = cfg.INPUT.CROP
    if crop.ENABLED:
        crop_size = np.array(crop.SIZE, dtype=np.float64)
        if crop.TYPE == "relative":
            sizes = sizes * crop_size
        elif crop.TYPE == "relative_range":
            sizes = sizes * (1.0 + crop_size) / 2.0
        elif crop.TYPE == "absolute":
            sizes = np.minimum(sizes, crop_size)
        elif crop.TYPE == "absolute_range":
            low, high = crop_size
            sizes = (np.minimum(sizes, low) + np.minimum(sizes, high)) / 2.0
    shorter, longer = sizes.min(1), sizes.max(1)
    factors = []
    for min_size in dict.fromkeys(np.atleast_1d(cfg.INPUT.MIN_SIZE_TRAIN).tolist()):
        factor = np.minimum(min_size / shorter, cfg.INPUT.MAX_SIZE_TRAIN / longer)
        factors.append(factor if min_size else np.ones_like(factor))  # 0: Detectron2 does not resize
    return np.stack(factors)


def eval_resize_factors(cfg: CfgNode, image_sizes: np.ndarray) -> np.ndarray:
    """Return by which factors evaluation and prediction resize images.

    Args:
        cfg: the config.
        image_sizes: int (N, 2), height and width.

    Returns:
        float (N,).
    """
    shorter, longer = image_sizes.min(1), image_sizes.max(1)
    if not cfg.INPUT.MIN_SIZE_TEST:  # Detectron2 does not resize
        return np.ones(len(image_sizes))
    return np.minimum(cfg.INPUT.MIN_SIZE_TEST / shorter, cfg.INPUT.MAX_SIZE_TEST / longer)


def shrunk_warnings(cfg: CfgNode, train_scale: float | None, image_sizes: np.ndarray, where: str) -> list[str]:
    """Return a warning if test images are resized to less than half of the scale of training, and not cut into tiles.

    Args:
        cfg: the config.
        train_scale: median factor by which training images are resized; None if unknown.
        image_sizes: int (N, 2), height and width of the test images.
        where: the name of their data set.
    """
    if train_scale is None or cfg.TEST.TILE not in (None, "off"):
        return []
    factors = eval_resize_factors(cfg, image_sizes)
    num_shrunk = int((factors < SHRUNK * train_scale).sum())
    if not num_shrunk:
        return []
    return [
        f"{where}: {num_shrunk} of {len(factors)} images are resized to less than half of the training images' scale "
        f"(by {factors.min():.3g}, in training by {train_scale:.3g}), so that small objects may be missing: set "
        "TEST.TILE auto"
    ]


def _fits(sides: np.ndarray, templates: Templates) -> np.ndarray:
    """Return whether each object has a fitting template, at an average distance of a quarter of the stride per axis.

    Args:
        sides: float (G, 2), width and height.
        templates: A of them.

    Returns:
        bool (G,).
    """
    if templates.size_band is not None:
        ratio = sides.max(1)[:, None] / templates.sizes[:, 0]
        return ((ratio >= templates.size_band[0]) & (ratio <= templates.size_band[1])).any(1)
    fits = np.zeros(len(sides), dtype=bool)
    for size, stride in zip(templates.sizes, templates.strides):
        common = np.minimum(np.minimum(sides, size), np.maximum((sides + size) / 2 - stride / 4, 0.0)).prod(1)
        union = sides.prod(1) + size.prod() - common
        fits |= common >= templates.threshold * union
    return fits


def model_templates(cfg: CfgNode) -> Templates | None:
    """Return the anchors or windows of a model from small to large, or None if it has none that we know of."""
    meta_architecture = cfg.MODEL.META_ARCHITECTURE
    if meta_architecture == "InstanceFCN":
        return _windows(cfg)
    if meta_architecture == "RetinaNet":
        return _anchors(cfg, cfg.MODEL.RETINANET.IN_FEATURES, cfg.MODEL.RETINANET.IOU_THRESHOLDS[0])
    has_rpn = registry_name_is_a(PROPOSAL_GENERATOR_REGISTRY, cfg.MODEL.PROPOSAL_GENERATOR.NAME, RPN)
    if meta_architecture not in ("GeneralizedRCNN", "ProposalNetwork", "PanopticFPN", "FCIS") or not has_rpn:
        return None
    return _anchors(cfg, cfg.MODEL.RPN.IN_FEATURES, cfg.MODEL.RPN.IOU_THRESHOLDS[0])


def _anchors(cfg: CfgNode, in_features: list[str], threshold: float) -> Templates | None:
    options, strides = cfg.MODEL.ANCHOR_GENERATOR, _feature_strides(cfg, in_features)
    if options.NAME != "DefaultAnchorGenerator" or not strides:
        return None
    sizes, anchor_strides = [], []
    for level, stride in enumerate(strides):
        # As in Detectron2: one list of sizes or ratios is used on all levels.
        for size in options.SIZES[level if len(options.SIZES) > 1 else 0]:
            for ratio in options.ASPECT_RATIOS[level if len(options.ASPECT_RATIOS) > 1 else 0]:
                sizes.append((size / ratio**0.5, size * ratio**0.5))
                anchor_strides.append(stride)
    return _sorted_templates("anchor", "MODEL.ANCHOR_GENERATOR.SIZES", sizes, anchor_strides, threshold)


def _windows(cfg: CfgNode) -> Templates | None:
    options = cfg.MODEL.INSTANCE_FCN
    strides = _feature_strides(cfg, options.IN_FEATURES)
    if not strides:
        return None
    sides = [options.WINDOW_SIZE * stride for stride in strides]
    band = tuple(options.SIZE_BAND) if options.LABEL_RULE == "deepmask" else None
    return _sorted_templates(
        "window",
        "MODEL.INSTANCE_FCN.WINDOW_SIZE",
        [(side, side) for side in sides],
        [options.WINDOW_STRIDE * stride for stride in strides],
        options.IOU_THRESHOLDS[1],
        band,
    )


def _sorted_templates(
    kind: str,
    key: str,
    sizes: list[tuple[float, float]],
    strides: list[float],
    threshold: float,
    size_band: tuple[float, float] | None = None,
) -> Templates:
    order = np.argsort([width * height for width, height in sizes], kind="stable")
    arrays = np.array(sizes, dtype=np.float64)[order], np.array(strides, dtype=np.float64)[order]
    return Templates(kind, key, *arrays, threshold, size_band)


def _feature_strides(cfg: CfgNode, names: list[str]) -> list[int]:
    """Return the strides of the backbone's feature maps, or nothing if the backbone cannot be built without memory."""
    try:
        # Building draws random numbers, which must not change those of the training.
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            shapes = build_backbone(cfg).output_shape()
        return [shapes[name].stride for name in names]
    except Exception as error:  # a backbone of the user's, or a config that building the model explains better
        logger.debug("the strides of the backbone are not known: %r", error)
        return []
