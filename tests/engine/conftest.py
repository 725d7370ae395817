"""A small data set and a small model that trains in seconds."""

from __future__ import annotations

import json
from pathlib import Path

from tellapart.data.coco_folder import coco_annotation

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

TINY_CONFIG = """
_BASE_: {base}
MODEL:
  DEVICE: cpu
  RESNETS: {{NORM: GN}}
  ROI_HEADS: {{NUM_CLASSES: 2}}
DATASETS:
  TRAIN: ("{name}",)
  TEST: ("{name}",)
DATALOADER:
  NUM_WORKERS: 0
INPUT:
  MIN_SIZE_TRAIN: (64, 80)
  MAX_SIZE_TRAIN: 96
  MIN_SIZE_TEST: 64
  MAX_SIZE_TEST: 96
SOLVER:
  OPTIMIZER: SGD
  IMS_PER_BATCH: 2
  BASE_LR: 0.01
  MAX_ITER: 6
  LR_SCHEDULER_NAME: WarmupMultiStepLR
  STEPS: (5,)
  WARMUP_ITERS: 2
  CHECKPOINT_PERIOD: 100
OUTPUT_DIR: {output}
"""

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory) -> tuple[Path, Path]:
    """(COCO JSON, image folder): 8 images of 64 to 80 px with two squares of two categories each."""
    folder = tmp_path_factory.mktemp("tiny")
    images = folder / "images"
    images.mkdir()
    generator = np.random.default_rng(0)
    entries, annotations = [], []
    for i in range(1, 9):
        height, width = 64 + 2 * (i % 3), 80 - 2 * (i % 4)
        picture = generator.integers(0, 80, (height, width, 3), dtype=np.uint8)
        for category in (1, 2):
            x, y = generator.integers(2, 30, 2)
            mask = np.zeros((height, width), dtype=bool)
            mask[y : y + 24, x + 12 * category : x + 12 * category + 20] = True
            picture[mask] = (250, 60, 60) if category == 1 else (60, 60, 250)
            annotations.append(coco_annotation(len(annotations) + 1, i, category, mask))
        cv2.imwrite(str(images / f"{i}.png"), picture)
        entries.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    json_file = folder / "instances.json"
    json_file.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": categories}))
    return json_file, images


@pytest.fixture
def forget():
    """A function that removes a data set from the catalogs, so that the next run can register it."""

    def remove(name: str) -> None:
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog.list():
                catalog.remove(name)

    return remove


@pytest.fixture
def tiny_config(tmp_path, tiny_set):
    """A function ``(name, *, output) -> config path`` that writes a config on the data set called ``name``."""

    def write(name: str, output: Path | str = "") -> Path:
        base = ROOT / "configs" / "quick" / "Base-R-18-FPN-scratch.yaml"
        path = tmp_path / f"{name}.yaml"
        path.write_text(TINY_CONFIG.format(base=base, name=name, output=output or tmp_path / "output"))
        return path

    return write
