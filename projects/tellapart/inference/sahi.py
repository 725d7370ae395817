"""Use a trained model in SAHI (``pip install -e .[sahi]``)::

    from sahi.predict import get_sliced_prediction
    from tellapart.inference.sahi import TellapartDetectionModel

    model = TellapartDetectionModel("output/quick/fcis_R_18_nuclei")
    result = get_sliced_prediction("image.png", model, slice_height=256, slice_width=256)

SAHI merges boxes and simplified polygons; ``tellapart predict`` merges masks and needs no slice size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from .image_model import to_detections
from .outlines import mask_to_polygon, rings
from .predictor import Predictor

try:
    from sahi.models.base import DetectionModel
    from sahi.prediction import ObjectPrediction
except ImportError as error:
    raise InputError("SAHI is not installed: pip install sahi") from error


class TellapartDetectionModel(DetectionModel):
    """A detection model of SAHI.

    Args:
        model_path: run folder, see :class:`Predictor`.
        confidence_threshold: least score. Default: the one that was chosen in training.
        device: such as "cpu".
        **kwargs: of SAHI's ``DetectionModel``.
    """

    def __init__(
        self, model_path: str, confidence_threshold: float | None = None, device: str | None = None, **kwargs: Any
    ) -> None:
        self._predictor = Predictor(model_path, threshold=confidence_threshold, device=device, tile="off")
        super().__init__(
            model_path=model_path, confidence_threshold=self._predictor.threshold, device=device or "cpu", **kwargs
        )

    def load_model(self) -> None:
        """Set the predictor as SAHI's model."""
        self.set_model(self._predictor)

    def set_model(self, model: Predictor, **kwargs: Any) -> None:
        """Set the model and the names of its categories."""
        self.model = model
        self.category_mapping = {str(i): name for i, name in enumerate(model.class_names)}

    def perform_inference(self, image: np.ndarray) -> None:
        """Predict an RGB image, uint8 (H, W, 3)."""
        self._original_predictions = [to_detections(self.model(np.ascontiguousarray(image[..., ::-1])))]

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: list | None = None, full_shape_list: list | None = None
    ) -> None:
        # SAHI passes [x, y] and [height, width], or a list of these with one entry per image.
        shift = np.reshape(shift_amount_list or [0, 0], (-1, 2))[0].tolist()
        full_shape = np.reshape(full_shape_list, (-1, 2))[0].tolist() if full_shape_list else None
        (found,) = self._original_predictions
        predictions = []
        for crop, box, category, score in zip(found.masks.crops, found.masks.boxes, found.classes, found.scores):
            if not crop.any():
                continue
            lines = rings(mask_to_polygon(crop, int(box[0]), int(box[1])))
            predictions.append(
                ObjectPrediction(
                    bbox=box.tolist(), category_id=int(category), category_name=self.model.class_names[category],
                    segmentation=[line.ravel().tolist() for line in lines], score=float(score),
                    shift_amount=shift, full_shape=full_shape,
                )
            )  # fmt: skip
        self._object_prediction_list_per_image = [predictions]
