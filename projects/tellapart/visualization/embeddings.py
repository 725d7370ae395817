"""What a semi-convolutional model sees in one image: embeddings, the places they point to, a region's seed and kernel.

Within this file places are (x, y) and embeddings Psi (D, H, W) are given at the pixels of the model's input image.
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
    Color,
    brightened,
    captioned,
    fitted,
    frame,
    heat,
    palette,
    picture_of,
    with_instances,
    write_rows,
)

_PANEL = 420  # longest side of a panel of the whole image, pixels
_REGION = 248  # of a panel of the region
_SPACING = 10  # between arrows, pixels of a panel
_WHITE = (255, 255, 255)


def has_embeddings(model: nn.Module) -> bool:
    """Whether ``draw_embeddings`` can draw it: ``SemiConvColoring``, or ROI heads that embed the whole image."""
    return isinstance(model, SemiConvColoring) or isinstance(getattr(model, "roi_heads", None), SemiConvROIHeads)


@torch.no_grad()
def draw_embeddings(
    path: str | Path, model: nn.Module, inputs: dict, input_format: str = "BGR", region: int | None = None,
    score_threshold: float = 0.5, class_names: list[str] | None = None,
) -> None:  # fmt: skip
    """Writes a PNG.

    Upper row: the image with the predicted instances; the embeddings Psi of their pixels as colours, alike where Psi is
    alike; an arrow from pixels to the places that Psi's two geometric dimensions point to, in their instance's colour.
    Where the method works, each instance has one colour and its arrows one end.

    Lower row, for Mask R-CNN, one region: the image with the arrows of its pixels and, as a cross, the place that the
    seed's embedding points to; Mask R-CNN's own mask sigmoid(s); the seed's distribution p = softmax(s) and its most
    likely cell in a ring; the kernel K between the seed and each cell; the mask sigmoid(s + log K). Red is high.

    Args:
        path: of the PNG; its folder is made.
        model: one that ``has_embeddings``, in eval mode. Of a pyramid the finest level's embeddings are in the upper
            row; the lower row has the region's own.
        inputs: one image as the model takes it: ``image`` (3, H, W); for k-means also ``gt_num_instances``.
        input_format: of ``inputs["image"]``, as in ``cfg.INPUT.FORMAT``.
        region: of Mask R-CNN the number of an instance, by falling score from 0; None: 0, whatever its score.
        score_threshold: instances below it are not in the upper row, nor do their pixels count as foreground.
        class_names: of the categories; None: their numbers.

    Raises:
        InputError: there is no such region, or k-means is not told the number of instances.
    """
    picture, _ = brightened(picture_of(inputs["image"], input_format))
    size = picture.shape[:2]
    if isinstance(model, SemiConvColoring):
        images, logits, phi = model.maps([inputs])
        found = model.cluster_image({**inputs, "height": size[0], "width": size[1]}, size, logits[0], phi[0])
        operator, psi = model.semiconv, model.embed(phi[0], size)
        name, labels, lower = model.in_feature, [], []
    else:
        heads = model.roi_heads
        images = model.preprocess_image([inputs])
        found = model.inference([{"image": inputs["image"]}])[0]["instances"]
        features = model.backbone(images.tensor)
        operator, stride = heads.mask_head.semiconv["operator"], heads.embedding_strides[0]
        psi = operator(upsample_maps(heads.embed(features)[0].float(), stride, size), 1)[0]
        name, labels = heads.mask_in_features[0], [str(i) for i in range(len(found))]
        if region is not None and not 0 <= region < len(found):
            raise InputError(f"there is no region {region}: the model finds {len(found)}")
        lower = _region_panels(heads, features, found, region or 0, picture, class_names) if len(found) else []
    shown = found[found.scores >= score_threshold]
    masks = shown.pred_masks.cpu().numpy()
    upper = _whole_panels(picture, masks, labels, psi.cpu().numpy(), operator, name)
    write_rows(path, upper, *([lower] if lower else []))


def _whole_panels(
    picture: np.ndarray, masks: np.ndarray, labels: Sequence[str], psi: np.ndarray, operator: SemiConv, name: str
) -> list[np.ndarray]:
    """The upper row, of masks bool (N, H, W)."""
    colors, foreground = palette(len(masks)), masks.any(0)
    dimmed = picture // 4
    colored = np.where(foreground[..., None], embedding_colors(psi, foreground), dimmed)
    arrows = fitted(dimmed, _PANEL)
    factor = _PANEL / max(foreground.shape)
    for mask, color in zip(masks, colors):
        y, x = sparse_pixels(mask, max(1, round(_SPACING / factor)))
        starts = np.stack((x, y), 1) + 0.5
        draw_arrows(arrows, starts * factor, psi[:2, y, x].T * operator.pixels_per_unit * factor, color)
    numbered = ", by falling score" if len(labels) else ""
    instances = with_instances(fitted(picture, _PANEL, cv2.INTER_CUBIC), masks, colors, labels)
    return [
        captioned(instances, f"predicted instances: {len(masks)}{numbered}"),
        captioned(fitted(colored, _PANEL), f"embeddings of their pixels as colours ({name})"),
        captioned(arrows, "from a pixel to where its embedding points"),
    ]


def sparse_pixels(mask: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of one pixel of a mask, bool (H, W), for each square of a grid of ``step`` pixels that it
    touches: the one nearest to the square's middle, so that a thin mask is not missed."""
    y, x = mask.nonzero()
    from_middle = np.hypot(y % step - (step - 1) / 2, x % step - (step - 1) / 2)
    order = from_middle.argsort(kind="stable")
    _, first = np.unique((y // step * mask.shape[1] + x // step)[order], return_index=True)
    return y[order[first]], x[order[first]]


def embedding_colors(psi: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """The first three principal components of the foreground's embeddings as red, green and blue.

    Each component fills the range of a colour, but is stretched at most three times as much as the first, and a tenth
    of a unit is never more than the whole range: noise in a direction that says little stays pale.

    Args:
        psi: float (D, H, W).
        foreground: bool (H, W).

    Returns:
        uint8 BGR (H, W, 3); outside of the foreground, black.
    """
    picture = np.zeros((*foreground.shape, 3), np.uint8)
    pixels = psi[:, foreground].T.astype(np.float64)
    if not len(pixels):
        return picture
    pixels = pixels - pixels.mean(0)
    _, axes = np.linalg.eigh(pixels.T @ pixels)  # by rising variance
    axes = axes[:, ::-1][:, :3]
    axes = axes * np.where(np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0) < 0, -1, 1)  # one sign for all
    parts = pixels @ axes
    low, high = np.percentile(parts, [2, 98], axis=0)
    span = np.maximum(high - low, max((high - low)[0] / 3, 0.1))
    shades = np.full((len(parts), 3), 0.5)
    shades[:, : parts.shape[1]] = 0.5 + (parts - (low + high) / 2) / span
    picture[foreground] = (40 + 215 * shades.clip(0, 1))[:, ::-1].round()
    return picture


def draw_arrows(picture: np.ndarray, starts: np.ndarray, ends: np.ndarray, color: Color) -> None:
    """Arrows into the picture, from ``starts`` to ``ends``, float (P, 2) each; one that leaves the picture ends at its
    edge, still pointing the same way, without the dot that marks an end."""
    height, width = picture.shape[:2]
    edge = np.array([width - 1, height - 1])
    for start, end in zip(starts, ends):
        step = end - start
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(step > 0, (edge - start) / step, np.where(step < 0, -start / step, np.inf))
        share = min(1.0, float(reach.min()))
        tip = start + max(0.0, share) * step
        length = float(np.hypot(*(tip - start)))
        points = [_whole(start), _whole(tip)]
        cv2.arrowedLine(picture, *points, color, 1, cv2.LINE_AA, tipLength=min(0.35, 5 / max(length, 1e-6)))
        if share == 1:
            cv2.circle(picture, points[1], 2, color, -1, cv2.LINE_AA)


def _region_panels(
    heads: SemiConvROIHeads, features: dict[str, Tensor], found: Instances, index: int, picture: np.ndarray,
    class_names: list[str] | None,
) -> list[np.ndarray]:  # fmt: skip
    """The lower row, of one of the instances found in the picture."""
    one, head = found[index : index + 1], heads.mask_head
    boxes = [one.pred_boxes]
    pooled = heads.mask_pooler([features[name] for name in heads.mask_in_features], boxes)
    phi = heads.embedding_pooler(heads.embed(features), boxes).float()
    own, log_kernel = head.logits_and_log_kernel(pooled, one.pred_boxes.tensor, one.pred_classes, phi)
    operator = head.semiconv["operator"]
    psi = operator.on_boxes(phi, one.pred_boxes.tensor)
    seed = head.inference_seed(own, psi)[0]
    shares = own.flatten(1).softmax(1).view_as(own)
    likely, shares, kernel, mask = (
        x[0].double().cpu().numpy() for x in (own.sigmoid(), shares, log_kernel.exp(), (own + log_kernel).sigmoid())
    )
    x0, y0, x1, y1 = box = one.pred_boxes.tensor[0].tolist()
    scale = _REGION / max(x1 - x0, y1 - y0)
    size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    maps = [
        cv2.resize(heat(2 * values - 1, 1.0), size, interpolation=cv2.INTER_NEAREST)
        for values in (likely, shares / shares.max(), kernel, mask)
    ]
    best = np.stack(np.unravel_index(shares.argmax(), shares.shape)[::-1]) + 0.5
    cv2.circle(maps[1], _whole(best / len(mask) * size), 8, _WHITE, 2, cv2.LINE_AA)

    y, x = (2 * i for i in (likely[::2, ::2] >= 0.5).nonzero())  # every other cell
    starts = box_coordinates(one.pred_boxes.tensor, len(mask))[0][:, y, x].T.double().cpu().numpy()
    ends = psi[0, :2].double().cpu().numpy()[:, y, x].T * operator.pixels_per_unit
    seed_place = seed[:2].double().cpu().numpy() * operator.pixels_per_unit
    colors = [tuple(color) for color in heat(2 * kernel[None, y, x] - 1, 1.0)[0].tolist()] if len(y) else []
    pointing = _pointing(picture, box, starts, ends, colors, seed_place)
    category, score = int(one.pred_classes[0]), float(one.scores[0])
    name = class_names[category] if class_names else f"category {category}"
    captions = (
        f"region {index}: {name} {score:.2f}; cross: seed", "its own mask: sigmoid(s)", "seed: p = softmax(s)",
        "kernel K(seed, pixel)", "mask: sigmoid(s + log K)",
    )  # fmt: skip
    return [captioned(panel, caption, _REGION) for panel, caption in zip([pointing, *maps], captions)]


def _pointing(
    picture: np.ndarray, box: Sequence[float], starts: np.ndarray, ends: np.ndarray, colors: Sequence[Color],
    seed_place: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """A cut-out of the picture that shows the box, the arrows in their colours and the seed's place as a cross, as far
    as they are within the picture; all in the picture's pixels."""
    size = np.array(picture.shape[1::-1])
    seen = np.concatenate((np.reshape(box, (2, 2)), ends, seed_place[None]))
    low, high = (f(seen.clip(0, size), axis=0) for f in (np.min, np.max))
    margin = 0.05 * max(high - low)
    low, high = (low - margin).clip(0, size), (high + margin).clip(0, size)
    scale = _REGION / max(high - low)
    width, height = (max(1, round(v)) for v in (high - low) * scale)
    shift = (0.5 - low) * scale - 0.5  # OpenCV counts from the centre of the first pixel
    cut = cv2.warpAffine(picture, np.array([[scale, 0, shift[0]], [0, scale, shift[1]]]), (width, height)) // 4
    frame(cut, [v for corner in np.reshape(box, (2, 2)) for v in (corner - low) * scale], _WHITE)
    for start, end, color in zip((starts - low) * scale, (ends - low) * scale, colors):
        draw_arrows(cut, start[None], end[None], color)
    cv2.drawMarker(cut, _whole((seed_place - low) * scale), _WHITE, cv2.MARKER_TILTED_CROSS, 14, 2, cv2.LINE_AA)
    return cut


def _whole(place: np.ndarray) -> tuple[int, int]:
    """The pixel that a place is in; far outside, one that OpenCV can still count to."""
    x, y = np.floor(place).clip(-9999, 9999)
    return int(x), int(y)
