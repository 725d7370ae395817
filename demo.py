#!/usr/bin/env python
"""Show the instances that a trained model finds, with the flags of Detectron2's demo.

Examples:
    python demo.py --config-file output/run/config.yaml --input a.png b.png --output pictures --opts MODEL.WEIGHTS output/run/model_final.pth
    python demo.py --config-file CONFIG --video-input film.mp4 --output film_with_instances.mp4 --opts MODEL.WEIGHTS FILE
    python demo.py --config-file CONFIG --webcam --opts MODEL.WEIGHTS FILE

`tellapart predict` writes masks, tables and measurements as well.
"""  # noqa: E501

from __future__ import annotations

from tellapart.errors import run_command
from tellapart.inference.demo import main

if __name__ == "__main__":
    run_command(main)
