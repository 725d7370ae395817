"""Pictures of how a semi-convolutional model separates instances: embeddings, and a region's seed, kernel and mask.

Shapes and coordinates in this module: embeddings Psi are (D, H, W) at the pixels of the model's input image; the first
two dimensions of Psi, times ``pixels_per_unit``, are a point (x, y) of this image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from ..coloring import SemiConvColoring
from ..embeddings.operator import box_coordinates, upsample_maps
from ..errors import InputError
from ..semiconv import SemiConv, SemiConvROIHeads
from .drawing import (
    WHITE,
    Color,
    add_caption,
    brighten,
    darken,
    draw_arrows,
    draw_box,
    draw_instances,
    heatmap,
    input_to_picture,
    palette,
    pixel_at,
    resize_longest,
    write_rows,
)

_PANEL_SIZE = 420  # longer side of a panel of the whole image, pixels
_REGION_SIZE = 248  # longer side of a panel of the region, pixels
_ARROW_SPACING = 10  # between the starts of arrows, pixels of a panel


def has_embeddings(model: nn.Module) -> bool:
    """Return whether ``draw_embeddings`` supports the model: ``SemiConvColoring``, or one with ``SemiConvROIHeads``."""
    return isinstance(model, SemiConvColoring) or isinstance(getattr(model, "roi_heads", None), SemiConvROIHeads)


def draw_embeddings(
    path: str | Path, model: nn.Module, inputs: dict, input_format: str = "BGR", region: int | None = None,
    score_threshold: float = 0.5, class_names: list[str] | None = None,
) -> None:  # fmt: skip
    """Write a PNG of the embeddings of one image.

    Upper row: the image with the predicted instances; their pixels, colored by their embeddings Psi, so that similar
    embeddings have similar colors; arrows from pixels to the points to which the two geometric dimensions of Psi refer,
    in the color of the instance. Where the method works, each instance has one color, and its arrows end at one point.

    Lower row, only with Mask R-CNN, for one region: the image with arrows from its pixels and a cross at the point of
    the seed's embedding; Mask R-CNN's own mask sigmoid(s); the seed distribution p = softmax(s), with a circle around
    its maximum; the kernel K between the seed and each cell; the mask sigmoid(s + log K). Red is high, blue is low.

    Args:
        path: of the PNG; its folder is created if it does not exist.
        model: one that ``has_embeddings``, in eval mode. With a feature pyramid, the upper row shows the embeddings of
            the finest level. The lower row shows those pooled for the region.
        inputs: one model input: ``image`` (3, H, W), and for k-means ``gt_num_instances``.
        input_format: of ``inputs["image"]``, a value of ``cfg.INPUT.FORMAT``.
        region: index of the instance in the lower row, by descending score. None: 0, even if its score is below
            ``score_threshold``.
        score_threshold: instances below it are not drawn in the upper row.
        class_names: names of the categories. None: their numbers.

    Raises:
        InputError: there is no such region, or k-means needs the number of instances.
    """
    rows = embedding_panels(model, inputs, input_format, region, score_threshold, class_names)
    write_rows(path, *(row for row in rows if row))


@torch.no_grad()
def embedding_panels(
    model: nn.Module, inputs: dict, input_format: str = "BGR", region: int | None = None,
    score_threshold: float = 0.5, class_names: list[str] | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:  # fmt: skip
    """Return the panels of the two rows of :func:`draw_embeddings`; the second one can be empty."""
    picture, _ = brighten(input_to_picture(inputs["image"], input_format))
    size = picture.shape[:2]
    if isinstance(model, SemiConvColoring):
        images, logits, phi = model.maps([inputs])
        detections = model.cluster_image({**inputs, "height": size[0], "width": size[1]}, size, logits[0], phi[0])
        operator, psi = model.semiconv, model.embed(phi[0], size)
        name, labels, lower = model.in_feature, [], []
    else:
        heads = model.roi_heads
        images = model.preprocess_image([inputs])
        detections = model.inference([{"image": inputs["image"]}])[0]["instances"]
        features = model.backbone(images.tensor)
        operator, stride = heads.mask_head.semiconv["operator"], heads.embedding_strides[0]
        psi = operator(upsample_maps(heads.embed(features)[0].float(), stride, size), 1)[0]
        name, labels = heads.mask_in_features[0], [str(i) for i in range(len(detections))]
        if region is not None and not 0 <= region < len(detections):
            raise InputError(f"there is no region {region}: the model predicts {len(detections)}, counted from 0")
        if len(detections):
            lower = _draw_region_row(heads, features, detections, region or 0, picture, class_names)
        else:
            lower = []
    shown = detections[detections.scores >= score_threshold]
    masks = shown.pred_masks.cpu().numpy()
    return _draw_image_row(picture, masks, labels, psi.cpu().numpy(), operator, name), lower


def _draw_image_row(
    picture: np.ndarray, masks: np.ndarray, labels: Sequence[str], psi: np.ndarray, operator: SemiConv, map_name: str
) -> list[np.ndarray]:
    """Draw the three panels of the upper row.

    Args:
        picture: the input image.
        masks: predicted instances, bool (N, H, W).
        labels: one per instance, or none at all.
        psi: float (D, H, W).
        operator: the one that computed ``psi``.
        map_name: name of the feature map from which ``psi`` is predicted.
    """
    colors, foreground = palette(len(masks)), masks.any(0)
    dark = darken(picture)
    colored = np.where(foreground[..., None], embedding_colors(psi, foreground), dark)
    arrows = resize_longest(dark, _PANEL_SIZE)
    factor = _PANEL_SIZE / max(foreground.shape)
    for mask, color in zip(masks, colors):
        y, x = sparse_pixels(mask, max(1, round(_ARROW_SPACING / factor)))
        starts = np.stack((x, y), 1) + 0.5
        draw_arrows(arrows, starts * factor, psi[:2, y, x].T * operator.pixels_per_unit * factor, color)
    order = ", by descending score" if len(labels) else ""
    instances = draw_instances(resize_longest(picture, _PANEL_SIZE, cv2.INTER_CUBIC), masks, colors, labels)
    return [
        add_caption(instances, f"predicted instances: {len(masks)}{order}"),
        add_caption(resize_longest(colored, _PANEL_SIZE), f"colors of their pixels' embeddings ({map_name})"),
        add_caption(arrows, "arrows from pixels to the points of their embeddings"),
    ]


def sparse_pixels(mask: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Select one pixel of a mask, bool (H, W), in each square of a grid of ``step`` pixels.

    It is the pixel of the mask that is nearest to the center of the square, so that thin masks have pixels too.

    Returns:
        Rows and columns, int64 (P,) each.
    """
    y, x = mask.nonzero()
    center_distance = np.hypot(y % step - (step - 1) / 2, x % step - (step - 1) / 2)
    order = center_distance.argsort(kind="stable")
    _, first = np.unique((y // step * mask.shape[1] + x // step)[order], return_index=True)
    return y[order[first]], x[order[first]]


def embedding_colors(psi: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Color embeddings by the first three principal components of those of the foreground, as red, green and blue.

    Each component is scaled to the range of its color channel, but at most three times as much as the first component,
    and so that 0.1 units or more fill the range. Therefore small variations, such as noise, remain faint.

    Args:
        psi: float (D, H, W).
        foreground: bool (H, W).

    Returns:
        uint8 BGR (H, W, 3), black outside the foreground.
    """
    picture = np.zeros((*foreground.shape, 3), np.uint8)
    pixels = psi[:, foreground].T.astype(np.float64)
    if not len(pixels):
        return picture
    pixels = pixels - pixels.mean(0)
    _, axes = np.linalg.eigh(pixels.T @ pixels)  # in ascending order of variance
    axes = axes[:, ::-1][:, :3]
    # The sign of an axis is arbitrary: make its largest entry positive, so that colors are reproducible.
    axes = axes * np.where(np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0) < 0, -1, 1)
    components = pixels @ axes
    low, high = np.percentile(components, [2, 98], axis=0)
    span = np.maximum(high - low, max((high - low)[0] / 3, 0.1))
    shades = np.full((len(components), 3), 0.5)
    shades[:, : components.shape[1]] = 0.5 + (components - (low + high) / 2) / span
    picture[foreground] = (40 + 215 * shades.clip(0, 1))[:, ::-1].round()
    return picture


def _draw_region_row(
    heads: SemiConvROIHeads, features: dict[str, Tensor], detections: Instances, index: int, picture: np.ndarray,
    class_names: list[str] | None,
) -> list[np.ndarray]:  # fmt: skip
    """Draw the five panels of the lower row, for the detection ``index``."""
    detection, head = detections[index : index + 1], heads.mask_head
    own_logits, psi, log_kernel = heads.explain_regions(features, detection)
    operator = head.semiconv["operator"]
    seed = head.inference_seed(own_logits, psi)[0]
    seed_probs = own_logits.flatten(1).softmax(1).view_as(own_logits)
    region_maps = own_logits.sigmoid(), seed_probs, log_kernel.exp(), (own_logits + log_kernel).sigmoid()
    own_mask, seed_probs, kernel, mask = (x[0].double().cpu().numpy() for x in region_maps)
    x0, y0, x1, y1 = box = detection.pred_boxes.tensor[0].tolist()
    scale = _REGION_SIZE / max(x1 - x0, y1 - y0)
    size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    maps = [
        cv2.resize(heatmap(2 * values - 1, 1.0), size, interpolation=cv2.INTER_NEAREST)
        for values in (own_mask, seed_probs / seed_probs.max(), kernel, mask)
    ]
    hard_seed = np.stack(np.unravel_index(seed_probs.argmax(), seed_probs.shape)[::-1]) + 0.5
    cv2.circle(maps[1], pixel_at(hard_seed / len(mask) * size), 8, WHITE, 2, cv2.LINE_AA)

    y, x = (2 * i for i in (own_mask[::2, ::2] >= 0.5).nonzero())  # every second foreground cell
    starts = box_coordinates(detection.pred_boxes.tensor, len(mask))[0][:, y, x].T.double().cpu().numpy()
    ends = psi[0, :2].double().cpu().numpy()[:, y, x].T * operator.pixels_per_unit
    seed_point = seed[:2].double().cpu().numpy() * operator.pixels_per_unit
    colors = [tuple(color) for color in heatmap(2 * kernel[None, y, x] - 1, 1.0)[0].tolist()] if len(y) else []
    seed_panel = _draw_seed_panel(picture, box, starts, ends, colors, seed_point)
    category, score = int(detection.pred_classes[0]), float(detection.scores[0])
    name = class_names[category] if class_names else f"category {category}"
    captions = (
        f"region {index}: {name} {score:.2f}, seed: cross", "own mask: sigmoid(s)", "seed: p = softmax(s)",
        "kernel K(seed, pixel)", "mask: sigmoid(s + log K)",
    )  # fmt: skip
    return [add_caption(panel, caption, _REGION_SIZE) for panel, caption in zip([seed_panel, *maps], captions)]


def _draw_seed_panel(
    picture: np.ndarray, box: Sequence[float], starts: np.ndarray, ends: np.ndarray, colors: Sequence[Color],
    seed_point: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Draw the box, arrows in their colors and a cross at the seed's point into a crop of the picture.

    The crop contains all of them, as far as they are in the picture. Points and box are in pixels of the picture.
    """
    size = np.array(picture.shape[1::-1])
    points = np.concatenate((np.reshape(box, (2, 2)), ends, seed_point[None]))
    low, high = (f(points.clip(0, size), axis=0) for f in (np.min, np.max))
    margin = 0.05 * max(high - low)
    low, high = (low - margin).clip(0, size), (high + margin).clip(0, size)
    scale = _REGION_SIZE / max(high - low)
    width, height = (max(1, round(v)) for v in (high - low) * scale)
    shift = (0.5 - low) * scale - 0.5  # OpenCV's origin is the center of the first pixel
    crop = cv2.warpAffine(picture, np.array([[scale, 0, shift[0]], [0, scale, shift[1]]]), (width, height))
    crop = darken(crop)
    draw_box(crop, [v for corner in np.reshape(box, (2, 2)) for v in (corner - low) * scale], WHITE)
    for start, end, color in zip((starts - low) * scale, (ends - low) * scale, colors):
        draw_arrows(crop, start[None], end[None], color)
    cv2.drawMarker(crop, pixel_at((seed_point - low) * scale), WHITE, cv2.MARKER_TILTED_CROSS, 14, 2, cv2.LINE_AA)
    return crop
