#!/usr/bin/env python
"""Train or evaluate any config: `python train_net.py FLAGS` is the same as `tellapart train FLAGS`.

Examples:
    python train_net.py --config-file configs/quick/fcis/fcis_R_18_shapes.yaml
    python train_net.py --config-file CONFIG --resume                      # continue from the last checkpoint
    python train_net.py --config-file CONFIG --eval-only MODEL.WEIGHTS output/model_final.pth
    python train_net.py --config-file CONFIG --num-gpus 8 SOLVER.IMS_PER_BATCH 16
    torchrun --nproc_per_node=2 train_net.py --config-file CONFIG          # gloo on CPUs, NCCL on GPUs
    python train_net.py --config-file CONFIG --register mine=annotations.json:images DATASETS.TEST "('mine',)"
"""

from __future__ import annotations

import sys

from tellapart_cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
