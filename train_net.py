#!/usr/bin/env python
"""Train or evaluate any config: Detectron2's own models and Tellapart's, on one process, several, or under torchrun.

Examples:
    python train_net.py --config-file configs/quick/fcis/fcis_R_18_shapes.yaml
    python train_net.py --config-file CONFIG --resume                      # go on where a run stopped
    python train_net.py --config-file CONFIG --eval-only MODEL.WEIGHTS output/model_final.pth
    python train_net.py --config-file CONFIG --num-gpus 8 SOLVER.IMS_PER_BATCH 16
    torchrun --nproc_per_node=2 train_net.py --config-file CONFIG          # gloo on CPUs, NCCL on GPUs
    python train_net.py --config-file CONFIG --register mine=annotations.json:images DATASETS.TEST "('mine',)"
"""

from __future__ import annotations

from tellapart.engine.train import run

if __name__ == "__main__":
    run()
