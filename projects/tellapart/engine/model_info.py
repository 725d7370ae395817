"""What prediction needs to know of a training besides its config and weights: a small JSON file in the run folder."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY

from ..data.coco_folder import registered_files
from ..data.content import DatasetContent
from ..data.statistics import Objects
from ..errors import InputError
from ..files import write_json
from ..instance_fcn.classifier import PassThroughROIHeads
from ..validation import registry_name_is_a
from .size_checks import resize_factors

FILE_NAME = "model_info.json"


@dataclass(frozen=True)
class ModelInfo:
    """Facts of a trained model, in ``OUTPUT_DIR/model_info.json``.

    Attributes:
        classes: category names in the order of the model's classes.
        scale: median factor by which training images were resized; None if unknown.
        scale_low: their 5th percentile: images that are resized by less show smaller objects than in training.
        object_size: 99th percentile of the longer sides of the objects, pixels of the network's input.
        score_threshold: the score from which F1 at IoU 0.5 was best on the validation set; None if unknown.
        threshold_from: the name of that data set.
        weights: name of the file in the run folder that prediction uses; "" for the final weights.
        datasets: of the training: [annotation file, image folder] by name, of those in COCO format.
        base_config: the config file that the run's config started from; "" if there is none.
    """

    classes: list[str] = dataclasses.field(default_factory=list)
    scale: float | None = None
    scale_low: float | None = None
    object_size: float | None = None
    score_threshold: float | None = None
    threshold_from: str = ""
    weights: str = ""
    datasets: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    base_config: str = ""

    @classmethod
    def of_training(cls, cfg: CfgNode, contents: Sequence[DatasetContent]) -> ModelInfo:
        """Measure the training sets of a config."""
        classes = ["object"] if is_class_agnostic(cfg) else list(contents[0].classes)
        files = {name: registered_files(name) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)}
        datasets = {name: list(paths) for name, paths in files.items() if paths}
        objects = Objects.from_records([record for content in contents for record in content.records])
        factors = resize_factors(cfg, objects.image_sizes)
        if not len(objects):
            return cls(classes, datasets=datasets)
        lengths = objects.sides.max(1) * np.median(factors, 0)[objects.image_index]
        return cls(
            classes,
            scale=round(float(np.median(factors)), 6),
            scale_low=round(float(np.percentile(factors, 5)), 6),
            object_size=round(float(np.percentile(lengths, 99)), 2),
            datasets=datasets,
        )

    @classmethod
    def read(cls, folder: str | Path) -> ModelInfo | None:
        """Read the file of a run folder; None if there is none.

        Raises:
            InputError: the file is broken.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            names = {field.name for field in dataclasses.fields(cls)}
            return cls(**{key: value for key, value in content.items() if key in names})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path} cannot be read: {error}; train again, or delete it to predict without") from error

    @classmethod
    def of_run(cls, cfg: CfgNode) -> ModelInfo | None:
        """Read the file beside ``MODEL.WEIGHTS`` or in ``OUTPUT_DIR``; None if there is none.

        Raises:
            InputError: the file is broken.
        """
        beside = cls.read(Path(cfg.MODEL.WEIGHTS).parent) if cfg.MODEL.WEIGHTS else None
        return beside or cls.read(cfg.OUTPUT_DIR)

    def write(self, folder: str | Path) -> None:
        """Write the file of a run folder.

        Raises:
            InputError: the file cannot be written.
        """
        write_json(os.path.join(folder, FILE_NAME), dataclasses.asdict(self))


def is_class_agnostic(cfg: CfgNode) -> bool:
    """Return whether a model predicts mask proposals of one class, whatever the categories of its data are."""
    return registry_name_is_a(ROI_HEADS_REGISTRY, cfg.MODEL.ROI_HEADS.NAME, PassThroughROIHeads)
