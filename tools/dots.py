#!/usr/bin/env python
"""Train instance coloring of identical dots with and without coordinates (semi-convolutional operators, figure 3).

Draws the predicted instances of both networks on some validation images, and prints both adjusted Rand indices. A
stopped run continues, and a finished one is not repeated.

Example:
    python tools/dots.py                 # output/quick/dots.png
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

from tellapart.data.annotations import decode_gt_masks
from tellapart.data.loader import build_guarded_test_loader
from tellapart.data.reader import read_dataset
from tellapart.engine.checkpoint import Checkpointer
from tellapart.engine.config_checks import load_config
from tellapart.engine.job_runner import in_parallel, train
from tellapart.errors import run_command
from tellapart.evaluation.coloring import adjusted_rand_index
from tellapart.visualization.cluster_pictures import write_cluster_pictures

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model

CONFIGS = {"convolutional": "coloring_dots_convolutional.yaml", "semi-convolutional": "coloring_dots.yaml"}
_FOLDER = Path(__file__).resolve().parents[1] / "configs" / "quick" / "coloring"
_METRIC = "coloring/ARI"


def predict_masks(cfg: CfgNode, num_images: int) -> list[np.ndarray]:
    """Return the masks, bool (N, H, W), that the model of ``cfg`` predicts for the first images of its test set."""
    model = build_model(cfg).eval()
    Checkpointer(model).resume_or_load(cfg.MODEL.WEIGHTS, resume=False, must_fit=True)
    with torch.no_grad():
        batches = zip(range(num_images), build_guarded_test_loader(cfg, cfg.DATASETS.TEST[0]))
        return [model(batch)[0]["instances"].pred_masks.cpu().numpy() for _, batch in batches]


def draw(path: Path, runs: dict[str, CfgNode], num_images: int) -> None:
    """Write a picture with one row per image: the image, its true instances, and the instances of each run.

    Args:
        path: of the PNG.
        runs: config of a trained model, with its weights, by name. All have the same test set.
        num_images: number of images, the first ones of the test set.
    """
    masks_by_run = {name: predict_masks(cfg, num_images) for name, cfg in runs.items()}
    (dataset,) = {cfg.DATASETS.TEST[0] for cfg in runs.values()}
    rows = []
    for i, record in enumerate(read_dataset(dataset).records[:num_images]):
        gt_masks = decode_gt_masks(record)
        tiles = [("the image", None), (f"truth: {len(gt_masks)} instances", gt_masks)]
        for name, masks in masks_by_run.items():
            tiles.append((f"{name}: ARI {adjusted_rand_index(masks[i], gt_masks)[0]:.2f}", masks[i]))
        rows.append((read_image(record["file_name"], "BGR"), tiles))
    write_cluster_pictures(path, rows)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/quick"), help="folder for both runs and dots.png")
    parser.add_argument("--num-images", type=int, default=3, help="validation images in the picture")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs for both runs")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # both networks are trained at the same time, with one core each
    options = ["DATALOADER.NUM_WORKERS", "0", *args.opts]
    configs = {name: _FOLDER / file for name, file in CONFIGS.items()}
    folders = {name: args.output / config.stem for name, config in configs.items()}
    jobs = [partial(train, configs[name], folders[name], args.seed, options, [_METRIC]) for name in configs]
    index = {name: found[_METRIC] / 100 for name, found in zip(configs, in_parallel(jobs, len(jobs)))}
    trained = {
        name: load_config(str(config), [*options, "MODEL.WEIGHTS", str(folders[name] / "model_final.pth")])
        for name, config in configs.items()
    }
    draw(args.output / "dots.png", trained, args.num_images)
    print(f"wrote {args.output / 'dots.png'}")
    print("ARI " + " ".join(f"{name}={value:.3f}" for name, value in index.items()))


if __name__ == "__main__":
    run_command(main)
