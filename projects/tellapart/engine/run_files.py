"""The names of files in a run folder, the ``OUTPUT_DIR`` of a training."""

from __future__ import annotations

import os

from detectron2.config import CfgNode

BEST_FILE, FINAL_FILE = "model_best.pth", "model_final.pth"


def inference_folder(cfg: CfgNode, dataset_name: str) -> str:
    """Return the folder for the results on ``dataset_name``: OUTPUT_DIR/inference, with a subfolder per test set if
    there are several test sets."""
    folder = os.path.join(cfg.OUTPUT_DIR, "inference")
    return folder if len(cfg.DATASETS.TEST) == 1 else os.path.join(folder, dataset_name)


def contact_sheet_path(cfg: CfgNode, dataset_name: str) -> str:
    """Return the path of the contact sheet of a test set."""
    return os.path.join(inference_folder(cfg, dataset_name), f"contact_sheet_{dataset_name}.png")
