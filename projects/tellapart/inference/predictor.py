"""One object for prediction: a trained model that takes images and returns instances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from detectron2.modeling import build_model
from detectron2.structures import Instances
from tqdm import tqdm

from ..data.image_reading import ImageReader
from ..data.image_source import ArraySource, ImageSource, open_source
from ..engine.checkpoint import Checkpointer, check_exists
from ..engine.model_info import is_class_agnostic
from ..errors import InputError
from ..model_zoo.models import get_model_folder
from .image_model import ImageModel, choose_tiling, parse_tile, predict_tiles, to_detections, to_instances
from .limits import UNKNOWN_THRESHOLD, Limits
from .merging import Detections
from .run_folder import find_model
from .test_augmentation import augmented

if TYPE_CHECKING:
    from .folder import FolderResult


class Predictor:
    """A trained model of any kind that predicts the instances of images.

    It reads images as training did: bit depth, scaling, channels and pages are those of the run's config. Without
    tiles and with ``threshold`` 0, the instances are those of ``--eval-only``, bit by bit.

    Args:
        config_or_run_folder: the ``OUTPUT_DIR`` of a training; or a config file, or its name in the model zoo, with
            ``weights``.
        weights: file of the weights, by default those in the run folder.
        device: such as "cuda" or "cpu", by default ``MODEL.DEVICE`` of the config.
        threshold: instances with a lower score are left out. Default: the one chosen on the validation set of the
            training; 0.5 if there is none.
        tile: "auto": an image that would be shrunk against the training images is predicted in overlapping tiles;
            "off": never; or the side of the tiles in pixels of the image.
        opts: config options, [key, value, ...].

    Attributes:
        cfg, model: the config and the network.
        class_names: of the categories, by ``pred_classes``.
        threshold: see above.
        limits: what may have made results incomplete so far.

    Raises:
        InputError: there is no such model, its weights are missing or do not fit, or an option is invalid.
    """

    def __init__(
        self, config_or_run_folder: str | Path, weights: str | None = None, device: str | None = None, *,
        threshold: float | None = None, tile: str | int = "auto", opts: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.tile = parse_tile(tile)
        if device:
            opts = [*opts, "MODEL.DEVICE", device]
        self.cfg, self.info = find_model(config_or_run_folder, weights, opts)
        check_exists(self.cfg.MODEL.WEIGHTS)
        self.class_names = self.info.classes
        self.reader = ImageReader.from_cfg(self.cfg)
        self.model = build_model(self.cfg).eval()
        Checkpointer(self.model, cfg=self.cfg).resume_or_load(self.cfg.MODEL.WEIGHTS, resume=False, must_fit=True)
        self._image_model = ImageModel(augmented(self.model, self.cfg), self.cfg)
        self.threshold, self._threshold_origin = self._choose_threshold(threshold)
        self.limits = Limits(self.cfg, self.info)

    @classmethod
    def from_zoo(cls, name: str, **kwargs: Any) -> Predictor:
        """Return the predictor of a trained model by name, see :func:`tellapart.model_zoo.list_models`.

        Raises:
            InputError: there is no such model.
        """
        return cls(get_model_folder(name), **kwargs)

    def _choose_threshold(self, threshold: float | None) -> tuple[float, str]:
        if threshold is not None:
            if not 0.0 <= threshold <= 1.0:
                raise InputError(f"threshold is {threshold}, expected a score from 0 to 1")
            return float(threshold), "as given"
        if self.info.score_threshold is not None:
            return self.info.score_threshold, f"best F1 on {self.info.threshold_from}"
        return (
            UNKNOWN_THRESHOLD,
            "the default, because none was chosen on validation images (TEST.EVALUATORS instances)",
        )

    def summary(self) -> str:
        """Return one line: the weights, and the threshold with its origin."""
        return f"model {self.cfg.MODEL.WEIGHTS}; threshold {self.threshold:.4g} ({self._threshold_origin})"

    def __call__(self, image: np.ndarray | str | Path) -> Instances:
        """Predict the instances of an image.

        Args:
            image: path of an image file; or an array of pixels as OpenCV reads it: (H, W) or BGR (H, W, 3) of any
                bit depth, or (H, W, C) for a model of C channels.

        Returns:
            In pixels of the image, on the CPU: ``pred_boxes`` XYXY, ``scores``, ``pred_classes`` and, for models of
            masks, ``pred_masks``: bool (N, H, W), or :class:`MaskCrops` if the image was predicted in tiles.

        Raises:
            OSError: the file cannot be read.
            InputError: the image does not fit the model.
        """
        return self.predict(self.open(image))

    def predict(self, source: ImageSource) -> Instances:
        """Predict the instances of an opened image, see :meth:`__call__`."""
        tiling = choose_tiling(self._image_model, self.info, self.tile, source.height, source.width)
        if tiling is None:
            instances = self._predict_whole(source)
            return instances[instances.scores >= self.threshold]
        return to_instances(Detections.of_parts(list(self.detections(source))))

    def predict_folder(
        self, images: Sequence[str | Path], output: str | Path, **options: Any
    ) -> Iterator[FolderResult]:
        """Predict many images and write files of the results, see :func:`tellapart.inference.folder.predict_folder`."""
        from .folder import predict_folder

        return predict_folder(self, images, output, **options)

    def model_input(self, source: ImageSource) -> dict:
        """Return the network's input of the whole of an opened image: ``image`` (C, h, w), ``height``, ``width``."""
        return self._image_model.inputs(source.window(0, 0, source.width, source.height))

    def open(self, image: np.ndarray | str | Path) -> ImageSource:
        """Open an image, see :meth:`__call__`.

        Raises:
            OSError, InputError: see :meth:`__call__`.
        """
        format = self.cfg.INPUT.FORMAT
        if isinstance(image, (str, Path)):
            return open_source(str(image), self.reader, format)
        shape, dtype = getattr(image, "shape", ()), getattr(image, "dtype", type(image).__name__)
        if not isinstance(image, np.ndarray) or image.ndim not in (2, 3) or 0 in shape:
            raise InputError(f"image is {dtype} of shape {shape}, expected an array (H, W) or (H, W, C), or a file")
        is_color = image.ndim == 3 and shape[2] in (3, 4) and self.reader.options.num_channels == 3
        rgb = image[..., [2, 1, 0, 3][: shape[2]]] if is_color else image
        pixels = self.reader.finish(rgb, is_color, "given as an array", format)
        return ArraySource(pixels, rgb if rgb.ndim == 3 else rgb[..., None])

    def detections(self, source: ImageSource, progress: bool = False) -> Iterator[Detections]:
        """Yield the instances of an opened image above the threshold, those of a few rows of tiles at a time.

        Without tiles, all of them come at once. ``progress`` shows a progress bar of the tiles on stderr.
        """
        for part in self._predict_parts(source, progress):
            yield self.above_threshold(part)

    def all_detections(self, source: ImageSource) -> Iterator[Detections]:
        """Yield the instances of an opened image as :meth:`detections` does, with any score."""
        return self._predict_parts(source)

    @property
    def class_agnostic(self) -> bool:
        """Whether the model predicts mask proposals of one class, whatever the categories of the data are."""
        return is_class_agnostic(self.cfg)

    def above_threshold(self, found: Detections) -> Detections:
        """Return the instances whose score is at least the threshold."""
        return found[found.scores >= self.threshold]

    def _predict_parts(self, source: ImageSource, progress: bool = False) -> Iterator[Detections]:
        tiling = choose_tiling(self._image_model, self.info, self.tile, source.height, source.width)
        if tiling is None:
            yield to_detections(self._predict_whole(source))
            return
        self.limits.add_tiled(source, tiling)
        num_tiles = len(tiling.grid(source.height, source.width))
        with tqdm(total=num_tiles, desc="tiles", unit="tile", leave=False, disable=not progress) as bar:

            def count(found: Detections) -> None:
                self.limits.num_full_tiles += self.limits.is_full(found.scores, self.threshold)
                bar.update()

            yield from predict_tiles(self._image_model, source, tiling, count, self.threshold)

    def _predict_whole(self, source: ImageSource) -> Instances:
        self.limits.add_resized(self._image_model.test_scale(source.height, source.width))
        image = source.window(0, 0, source.width, source.height)
        instances = self._image_model(image).to("cpu")
        self.limits.num_full_images += self.limits.is_full(instances.scores.numpy(), self.threshold)
        return instances
