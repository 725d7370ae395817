"""Draws predictions and annotations on images, with OpenCV and PIL."""

from __future__ import annotations

from enum import Enum, unique

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont

from detectron2.structures import Boxes, BoxMode, Instances, polygons_to_bitmask

from .colormap import random_color

_SHORT_NAMES = {"r": "red", "g": "green", "b": "blue", "w": "white", "k": "black", "y": "yellow", "c": "cyan"}
_SHIFT = 4  # fractional bits of coordinates handed to OpenCV


@unique
class ColorMode(Enum):
    """How instances are coloured."""

    IMAGE = 0  # a random colour each
    SEGMENTATION = 1  # by class, from the metadata's "thing_colors"
    IMAGE_BW = 2  # like IMAGE, on an image that is grey outside of instances


def _to_rgb(color) -> tuple[float, float, float]:
    """0..1 RGB of a name, a letter, "#rrggbb", or 3 or 4 numbers in 0..1."""
    if isinstance(color, str):
        return tuple(c / 255 for c in ImageColor.getrgb(_SHORT_NAMES.get(color, color))[:3])
    return tuple(float(c) for c in color[:3])


class VisImage:
    """The picture in the making, ``scale`` times as large as ``img``."""

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        self.scale = scale
        size = (round(img.shape[1] * scale), round(img.shape[0] * scale))
        self.img = cv2.resize(np.ascontiguousarray(img), size) if scale != 1.0 else np.array(img, order="C")

    def get_image(self) -> np.ndarray:
        """uint8 RGB (H * scale, W * scale, 3)."""
        return self.img

    def save(self, filepath: str) -> None:
        """Write an image file; its ending says the format."""
        Image.fromarray(self.img).save(filepath)


class Visualizer:
    """Draws on a copy of ``img_rgb``, scaled; all coordinates are in pixels of ``img_rgb``.

    Args:
        img_rgb: (H, W, 3), RGB in 0..255.
        metadata: gives "thing_classes" and "thing_colors".

    Colours are names, single letters as in "r", "#rrggbb" or RGB in 0..1. Every draw_... returns the `VisImage`.
    """

    def __init__(
        self, img_rgb: np.ndarray, metadata=None, scale: float = 1.0, instance_mode: ColorMode = ColorMode.IMAGE,
        font_size_scale: float = 1.0,
    ) -> None:
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        assert self.img.ndim == 3 and self.img.shape[2] == 3, f"img_rgb must be (H, W, 3), got {self.img.shape}"
        self.metadata, self._instance_mode = metadata, instance_mode
        self.output = VisImage(self.img, scale)
        side = np.sqrt(self.output.img[:, :, 0].size)
        self._font_size = max(side // 90, 10) * font_size_scale
        self._line_width = max(round(side / 300), 1)

    def get_output(self) -> VisImage:
        """The picture so far."""
        return self.output

    def draw_instance_predictions(self, predictions: Instances) -> VisImage:
        """Draw "pred_boxes", "pred_classes", "scores" and "pred_masks", what there is of them."""
        fields = predictions.to(torch.device("cpu")).get_fields()
        classes, scores = (fields[k].tolist() if k in fields else None for k in ("pred_classes", "scores"))
        masks = fields.get("pred_masks")
        if self._instance_mode == ColorMode.IMAGE_BW:
            covered = masks.any(dim=0).numpy() if masks is not None else np.zeros(self.img.shape[:2], dtype=bool)
            grey = self.img.mean(axis=2, keepdims=True).astype(np.uint8)
            self.output = VisImage(np.where(covered[:, :, None], self.img, grey), self.output.scale)
        return self.overlay_instances(
            boxes=fields.get("pred_boxes"),
            labels=self._labels(classes, scores, [False] * len(predictions)),
            masks=masks,
            assigned_colors=self._class_colors(classes),
            alpha=0.8 if self._instance_mode == ColorMode.SEGMENTATION else 0.5,
        )

    def draw_dataset_dict(self, dic: dict) -> VisImage:
        """Draw the "annotations" of a dataset dict: boxes, segmentations, class names, crowds marked."""
        annos = dic.get("annotations") or []
        masks = [a["segmentation"] for a in annos if a.get("segmentation") is not None]
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annos]
        classes = [a["category_id"] for a in annos]
        return self.overlay_instances(
            boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
            labels=self._labels(classes, None, [a.get("iscrowd", 0) for a in annos]),
            masks=masks if len(masks) == len(annos) else None,
            assigned_colors=self._class_colors(classes),
        )

    def overlay_instances(
        self, *, boxes=None, labels: list[str] | None = None, masks=None, assigned_colors=None, alpha: float = 0.5
    ) -> VisImage:
        """Draw N instances, large ones first; AssertionError where the numbers of what is given differ.

        Args:
            boxes: `Boxes` or (N, 4) XYXY.
            masks: `BitMasks`, `PolygonMasks`, a bool (N, H, W), or a list of masks (H, W), RLEs or lists of polygons.
            assigned_colors: by default random ones.
        """
        if boxes is not None:
            boxes = np.asarray(boxes.tensor if isinstance(boxes, Boxes) else boxes, dtype=np.float64).reshape(-1, 4)
        masks = None if masks is None else [self._to_mask(m) for m in masks]
        counts = {len(x) for x in (boxes, labels, masks, assigned_colors) if x is not None}
        assert len(counts) <= 1, f"boxes, labels, masks and colours have different numbers: {sorted(counts)}"
        count = counts.pop() if counts else 0
        if assigned_colors is None:
            assigned_colors = [random_color(rgb=True, maximum=1) for _ in range(count)]
        sizes = np.zeros(count) if masks is None else np.array([m.sum() for m in masks])
        sizes = sizes if boxes is None else np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        order = np.argsort(-sizes, kind="stable")
        for i in order:
            if masks is not None:
                text = labels[i] if labels is not None and boxes is None else None
                self.draw_binary_mask(masks[i], assigned_colors[i], text=text, alpha=alpha, area_threshold=0)
            if boxes is not None:
                self.draw_box(boxes[i], edge_color=assigned_colors[i])
        for i in order if labels is not None and boxes is not None else ():  # last, so that nothing covers them
            self.draw_text(labels[i], boxes[i][:2], color=assigned_colors[i], horizontal_alignment="left")
        return self.output

    def draw_box(self, box_coord, alpha: float = 0.5, edge_color="g") -> VisImage:
        """Draw the outline of a box XYXY."""
        x0, y0, x1, y1 = box_coord
        return self._blend([np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])], edge_color, alpha, outline=True)

    def draw_polygon(self, segment: np.ndarray, color, edge_color=None, alpha: float = 0.5) -> VisImage:
        """Fill a polygon (N, 2) of x, y, and draw its outline."""
        segment = np.asarray(segment, dtype=np.float64).reshape(-1, 2)
        self._blend([segment], color, alpha)
        return self._blend([segment], color if edge_color is None else edge_color, 1.0, outline=True)

    def draw_binary_mask(
        self, binary_mask: np.ndarray, color=None, *, edge_color=None, text: str | None = None, alpha: float = 0.5,
        area_threshold: float = 10,
    ) -> VisImage:
        """Tint the pixels of a mask (H, W), holes left free, and draw its outline; smaller parts are left out."""
        mask = np.ascontiguousarray(binary_mask).astype(np.uint8)
        assert mask.shape == self.img.shape[:2], f"mask {mask.shape} on an image {self.img.shape[:2]}"
        color = random_color(rgb=True, maximum=1) if color is None else color
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        # Contours go through pixel centres; coordinates here have a pixel's centre at +0.5.
        rings = [c.reshape(-1, 2) + 0.5 for c in contours if cv2.contourArea(c) >= area_threshold]
        if rings:
            self._blend(rings, color, alpha)
            self._blend(rings, color if edge_color is None else edge_color, 1.0, outline=True)
            if text is not None:
                y, x = np.median(mask.nonzero(), axis=1)
                self.draw_text(text, (x, y), color=color)
        return self.output

    def draw_text(
        self, text: str, position, *, font_size: float | None = None, color="g", horizontal_alignment: str = "center"
    ) -> VisImage:
        """Write a text on a dark ground, its top at ``position`` x, y, kept inside of the picture."""
        font = ImageFont.load_default(size=self._font_size if font_size is None else font_size)
        image = Image.fromarray(self.output.img)
        draw = ImageDraw.Draw(image, "RGBA")
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        x, y = np.asarray(position, dtype=np.float64) * self.output.scale
        x -= {"left": 0, "center": (right - left) / 2, "right": right - left}[horizontal_alignment]
        x, y = max(min(x, image.width - right), 0), max(min(y, image.height - bottom), 0)
        draw.rectangle((x + left - 1, y + top - 1, x + right + 1, y + bottom + 1), fill=(0, 0, 0, 180))
        draw.text((x, y), text, fill=tuple(int(128 + c * 127) for c in _to_rgb(color)), font=font)  # readable on dark
        self.output.img = np.array(image)
        return self.output

    def _blend(self, rings: list[np.ndarray], color, alpha: float, outline: bool = False) -> VisImage:
        """Fill the rings (even-odd) or draw them as lines, ``alpha`` opaque."""
        canvas = self.output.img
        points = [np.round((r * self.output.scale - 0.5) * 2**_SHIFT).astype(np.int32) for r in rings]
        stencil = np.zeros(canvas.shape[:2], dtype=np.uint8)
        if outline:
            cv2.polylines(stencil, points, True, 1, self._line_width, cv2.LINE_8, _SHIFT)
        else:
            cv2.fillPoly(stencil, points, 1, cv2.LINE_8, _SHIFT)
        hit = stencil.astype(bool)
        rgb = np.array(_to_rgb(color)) * 255
        canvas[hit] = np.round(canvas[hit] * (1 - alpha) + rgb * alpha).astype(np.uint8)
        return self.output

    def _to_mask(self, mask) -> np.ndarray:
        """A mask, RLE or list of polygons as bool (H, W)."""
        if isinstance(mask, list):
            return polygons_to_bitmask([np.asarray(p).reshape(-1) for p in mask], *self.img.shape[:2])
        return (mask_util.decode(mask) if isinstance(mask, dict) else np.asarray(mask)).astype(bool)

    def _class_colors(self, classes: list[int] | None) -> list | None:
        colors = self.metadata.get("thing_colors") if self.metadata is not None else None
        if self._instance_mode != ColorMode.SEGMENTATION or colors is None or classes is None:
            return None
        return [[c / 255 for c in colors[i]] for i in classes]

    def _labels(self, classes: list[int] | None, scores: list[float] | None, crowds: list) -> list[str] | None:
        """Per instance "name 97%", or "name|crowd"; None where there is nothing to say."""
        if classes is None and scores is None:
            return None
        names = self.metadata.get("thing_classes") if self.metadata is not None else None
        classes = [""] * len(crowds) if classes is None else [f"{names[i] if names else i}" for i in classes]
        scores = [""] * len(crowds) if scores is None else [f"{s * 100:.0f}%" for s in scores]
        return [f"{c} {s}".strip() + "|crowd" * bool(crowd) for c, s, crowd in zip(classes, scores, crowds)]
