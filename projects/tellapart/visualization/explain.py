"""``tellapart explain``: one page of pictures that show how a model finds one instance of an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.structures import Instances, pairwise_iou
from markupsafe import Markup

from ..errors import InputError
from ..fcis import FCIS
from ..fcis.mask_voting import vote
from ..inference.image_model import to_detections
from ..inference.predictor import Predictor
from ..instance_fcn import InstanceFCN
from .drawing import (
    add_caption,
    blend_mask,
    brighten,
    draw_box,
    draw_instances,
    heatmap,
    input_to_picture,
    palette,
    resize_longest,
)
from .embedding_pictures import embedding_panels, has_embeddings
from .page import picture, write_page
from .score_maps import fcis_region_panels, instance_fcn_panels

_OVERVIEW_SIZE, _CROP_SIZE = 900, 320  # longer sides of pictures, pixels
_WIDE = 450  # pixels of a panel, from which it has a row of its own
_MAX_LABELS = 200  # instances with a number on the overview
_MARGIN = 0.4  # around a region, in its sides


@dataclass(frozen=True)
class _Part:
    """A heading, a text and pictures of the page."""

    title: str
    text: str
    panels: list[np.ndarray]


def write_explanation(
    predictor: Predictor, image: str | Path, path: str | Path, instance: int | None = None
) -> tuple[int, int]:
    """Predict an image and write a page about one of its instances.

    Args:
        predictor: the model.
        image: the image file. It is predicted as a whole, not in tiles.
        path: of the page.
        instance: number of the instance by falling score, from 1; None: the first one.

    Returns:
        The number of the instance, 0 if there is none, and the number of instances.

    Raises:
        InputError: there is no such instance, or the page cannot be written.
        OSError: the image cannot be read.
    """
    source = predictor.open(image)
    inputs = predictor.model_input(source)
    with torch.no_grad():
        found = predictor.model([inputs])[0]["instances"].to("cpu")
    found = found[found.scores.argsort(descending=True, stable=True)]
    found = found[found.scores >= predictor.threshold]
    if instance is not None and not 1 <= instance <= len(found):
        raise InputError(
            f"--instance is {instance}, but {image} has {len(found)} instances with a score of at least "
            f"{predictor.threshold:.4g}, counted from 1"
        )
    number = instance or min(1, len(found))
    size = inputs["image"].shape[1:]
    parts = [] if not number else _parts(predictor, inputs, found[number - 1], number)
    shown = [
        (one.title, one.text, [(picture(p, one.title, lossless=True), p.shape[1] > _WIDE) for p in one.panels])
        for one in parts
    ]
    overview = _overview(predictor, image, found, number)
    facts = _facts(predictor, found[number - 1]) if number else []
    write_page(
        path, "explain.html", title=f"{Path(image).name}: instance {number} of {len(found)}",
        summary=predictor.summary(), overview=overview, facts=facts,
        size=f"{source.width} x {source.height} px, {size[1]} x {size[0]} px as the network's input",
        parts=shown,
    )  # fmt: skip
    return number, len(found)


def _overview(predictor: Predictor, image: str | Path, found: Instances, number: int) -> Markup:
    pixels, _ = brighten(predictor.reader.picture(str(image)))
    masks = to_detections(found).masks.to_tensor().numpy()
    names = [str(i) for i in range(1, len(found) + 1)] if len(found) <= _MAX_LABELS else []
    drawn = draw_instances(
        resize_longest(pixels, _OVERVIEW_SIZE, cv2.INTER_CUBIC), list(masks), palette(len(found)), names
    )
    if number:
        scale = _OVERVIEW_SIZE / max(pixels.shape[:2])
        draw_box(drawn, [v * scale for v in found.pred_boxes.tensor[number - 1].tolist()], (255, 255, 255), 2)
    return picture(drawn, "the instances with their numbers")


def _facts(predictor: Predictor, one: Instances) -> list[tuple[str, str]]:
    name = predictor.class_names[int(one.pred_classes[0])]
    box = ", ".join(f"{value:.1f}" for value in one.pred_boxes.tensor[0].tolist())
    facts = [("category", name), ("score", f"{float(one.scores[0]):.4f}"), ("box XYXY", f"{box} px")]
    if one.has("pred_masks"):
        facts.append(("area", f"{int(np.asarray(one.pred_masks).sum())} px"))
    return facts


def _parts(predictor: Predictor, inputs: dict, one: Instances, number: int) -> list[_Part]:
    """Return the parts of the page that depend on the method."""
    model, names = predictor.model, predictor.class_names
    height, width = inputs["image"].shape[1:]
    box = one.pred_boxes.clone()
    box.scale(width / inputs["width"], height / inputs["height"])
    if isinstance(model, FCIS):
        return _fcis_parts(model, inputs, one, names)
    if isinstance(model, InstanceFCN):
        if predictor.cfg.MODEL.INSTANCE_FCN.MASK_HEAD != "InstanceSensitiveHead":
            return []
        upper, lower = instance_fcn_panels(model, inputs, box.tensor[0].tolist())
        return [
            _Part("Score maps", "Each map is high where a pixel lies in one part of an object, such as its upper left. "
                  "The window reads one cell from each map: the green one.", upper),
            _Part("Window", "The cells are assembled to the mask of the window.", lower),
        ]  # fmt: skip
    if has_embeddings(model):
        upper, lower = embedding_panels(
            model, inputs, predictor.cfg.INPUT.FORMAT, number - 1, predictor.threshold, names
        )
        parts = [
            _Part("Embeddings", "Each pixel has an embedding: its coordinates and what the network adds. Pixels of one "
                  "object have similar ones (colors), which refer to one point (arrows).", upper)
        ]  # fmt: skip
        if lower:
            text = "The kernel compares each pixel's embedding with the seed's, and removes neighbors from the mask."
            parts.append(_Part("Seed, kernel and mask", text, lower))
        return parts
    return []


def _fcis_parts(model: FCIS, inputs: dict, one: Instances, names: list[str]) -> list[_Part]:
    candidates = _candidates(model, inputs)
    category, score = int(one.pred_classes[0]), float(one.scores[0])
    index = int((candidates.class_probs[:, category] - score).abs().argmin())
    box = candidates.proposal_boxes.tensor[index].tolist()
    upper, lower = fcis_region_panels(model, inputs, box, names)
    voters, panels = _voters(model, candidates, index, category, inputs)
    return [
        _Part("Score maps", "Each map is high where a pixel lies in one part of an object (inside), or beside that "
              "part (outside). The region reads one cell from each map: the green one.", upper),
        _Part("Assembled scores", "The cells are assembled to one inside and one outside score per pixel. The larger "
              "one tells the category, their difference the mask.", lower),
        _Part("Mask voting", f"{voters} candidates whose boxes overlap this one by an IoU of at least "
              f"{model.voting.vote_iou:g} vote on the mask, weighted by their scores.", panels),
    ]  # fmt: skip


@torch.no_grad()
def _candidates(model: FCIS, inputs: dict) -> Instances:
    """Return the scored candidates of an image, see ``FCISROIHeads.score_candidates``."""
    heads, images = model.roi_heads, model.preprocess_image([inputs])
    features = model.backbone(images.tensor)
    maps = heads.position_sensitive_maps([features[name] for name in heads.in_features])
    proposals, _ = model.proposal_generator(images, features, None)
    return heads.score_candidates(maps, proposals)[0].to("cpu")


def _voters(
    model: FCIS, candidates: Instances, index: int, category: int, inputs: dict
) -> tuple[int, list[np.ndarray]]:
    """Return the number of voters of a candidate, and panels of their boxes, the average of their masks, the mask."""
    boxes = candidates.proposal_boxes
    is_voter = pairwise_iou(boxes[index], boxes)[0] >= model.voting.vote_iou
    is_voter[index] = True
    weights = candidates.class_probs[is_voter, category]
    size, threshold = tuple(inputs["image"].shape[1:]), model.voting.mask_thresh
    one_each = torch.eye(len(weights))
    masks = vote(candidates.mask_probs[is_voter], boxes.tensor[is_voter], one_each, size, threshold).float()
    average = ((weights[:, None, None] * masks).sum(0) / weights.sum()).numpy()
    image = brighten(input_to_picture(inputs["image"], model.input_format))[0]
    crop = _Crop.around(boxes.tensor[index].numpy(), size)
    with_boxes = crop.of(image)
    for voter, weight in zip(boxes.tensor[is_voter].numpy(), (weights / weights.max()).tolist()):
        shade = int(80 + 175 * weight)
        draw_box(with_boxes, crop.box(voter), (shade, shade, shade))
    draw_box(with_boxes, crop.box(boxes.tensor[index].numpy()), (60, 60, 230), 2)
    mask = crop.of(image)
    blend_mask(mask, crop.of((average >= threshold).astype(np.uint8), cv2.INTER_NEAREST) > 0, (60, 60, 230), 0.6)
    heat = crop.of(heatmap(2 * average - 1, 1.0), cv2.INTER_NEAREST)
    captions = f"boxes of {len(weights)} voters", "average of their masks", f"mask: average of at least {threshold:g}"
    return len(weights), [add_caption(one, text) for one, text in zip((with_boxes, heat, mask), captions)]


@dataclass(frozen=True)
class _Crop:
    """A part of a picture, enlarged: ``left``, ``top``, ``right``, ``bottom`` in pixels, and the factor."""

    left: int
    top: int
    right: int
    bottom: int
    scale: float

    @classmethod
    def around(cls, box: np.ndarray, size: tuple[int, int]) -> _Crop:
        x0, y0, x1, y1 = box
        margin = _MARGIN * max(x1 - x0, y1 - y0, 1)
        left, top = max(0, int(x0 - margin)), max(0, int(y0 - margin))
        right, bottom = min(size[1], int(x1 + margin) + 1), min(size[0], int(y1 + margin) + 1)
        return cls(left, top, right, bottom, _CROP_SIZE / max(right - left, bottom - top, 1))

    def of(self, image: np.ndarray, enlarge_by: int = cv2.INTER_CUBIC) -> np.ndarray:
        """Return the part of a picture."""
        return resize_longest(
            np.ascontiguousarray(image[self.top : self.bottom, self.left : self.right]), _CROP_SIZE, enlarge_by
        )

    def box(self, box: np.ndarray) -> list[float]:
        """Return a box in pixels of the part."""
        return [float((v - low) * self.scale) for v, low in zip(box, (self.left, self.top) * 2)]
