#!/usr/bin/env python
"""Identical dots on a grid, told apart or not (semi-convolutional operators, figure 3): trains the same network with
and without the pixels' places, then draws both colourings of some validation images and prints the two figures.

A run that was stopped goes on where it stopped, one that is done is not repeated.

Example:
    python tools/dots.py                 # output/quick/dots.png
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

from tellapart.data.loader import build_guarded_test_loader
from tellapart.engine.checkpoint import Checkpointer
from tellapart.engine.config_checks import load_config
from tellapart.engine.job_runner import in_parallel, train
from tellapart.errors import run_command
from tellapart.evaluation.coloring import adjusted_rand_index
from tellapart.masks import true_masks
from tellapart.visualization.cluster_pictures import write_cluster_pictures

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model

CONFIGS = {"convolutional": "coloring_dots_convolutional.yaml", "semi-convolutional": "coloring_dots.yaml"}
_FOLDER = Path(__file__).resolve().parents[1] / "configs" / "quick"
_METRIC = "coloring/ARI"


def predicted(cfg: CfgNode, num_images: int) -> list[np.ndarray]:
    """Masks, bool (N, H, W), of the first images of the test set, by the model whose trained weights ``cfg`` names."""
    model = build_model(cfg).eval()
    Checkpointer(model).resume_or_load(cfg.MODEL.WEIGHTS, resume=False, must_fit=True)
    with torch.no_grad():
        batches = zip(range(num_images), build_guarded_test_loader(cfg, cfg.DATASETS.TEST[0]))
        return [model(batch)[0]["instances"].pred_masks.cpu().numpy() for _, batch in batches]


def draw(path: Path, runs: dict[str, CfgNode], num_images: int) -> None:
    """The picture: a row for each image with the image, its true instances and each run's.

    Args:
        path: of the PNG.
        runs: by name a trained model's config with its weights; all have one test set.
        num_images: how many of the test set's first images.
    """
    found = {name: predicted(cfg, num_images) for name, cfg in runs.items()}
    (dataset,) = {cfg.DATASETS.TEST[0] for cfg in runs.values()}
    rows = []
    for i, record in enumerate(DatasetCatalog.get(dataset)[:num_images]):
        truth = true_masks(record)
        tiles = [("the image", None), (f"truth: {len(truth)} instances", truth)]
        for name, masks in found.items():
            tiles.append((f"{name}: ARI {adjusted_rand_index(masks[i], truth)[0]:.2f}", masks[i]))
        rows.append((read_image(record["file_name"], "BGR"), tiles))
    write_cluster_pictures(path, rows)


def main() -> None:
    """Read the flags, train, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/quick"), help="folder for both runs and dots.png")
    parser.add_argument("--num-images", type=int, default=3, help="validation images in the picture")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs for both runs")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # both run at the same time, a core each
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
