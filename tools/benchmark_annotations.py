#!/usr/bin/env python
"""Compare the time and memory of reading annotations of COCO's size with those of Detectron2's ``load_coco_json``.

Ours normalizes the annotations, checks that they can be trained on, and compares the objects' sizes with anchors.

Writes a synthetic file of that size (118,287 images, 860,001 objects, polygons of 6 to 60 points, 1 % crowds as RLE)
and empty image files into FOLDER, which are kept for the next run. Each reader runs in its own process. Needs Linux.

Example:
    python tools/benchmark_annotations.py /tmp/coco_size
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from tellapart.errors import run_command
from tellapart.files import write_json

import numpy as np

NUM_IMAGES, NUM_OBJECTS, SIZE = 118_287, 860_001, (480, 640)
READERS = ("detectron2", "tellapart")


def write_dataset(folder: Path, num_images: int, num_objects: int) -> None:
    """Write ``instances.json`` and empty files ``images/<number>.jpg`` into ``folder``, if they are not there."""
    if (folder / "instances.json").is_file():
        return
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    height, width = SIZE
    images = [
        {"id": i, "file_name": f"{i:012d}.jpg", "height": height, "width": width} for i in range(1, num_images + 1)
    ]
    for image in images:
        (folder / "images" / image["file_name"]).touch()
    annotations = []
    for number in range(1, num_objects + 1):
        num_points = int(rng.integers(6, 61))
        angles = np.sort(rng.uniform(0, 2 * np.pi, num_points))
        radius = rng.uniform(5, 100)
        center = rng.uniform(radius, (width - radius, height - radius))
        points = (center + radius * np.stack((np.cos(angles), np.sin(angles)), 1)).round(2)
        low, high = points.min(0), points.max(0)
        box = [float(v) for v in (*low, *(high - low).round(2))]
        crowd = number % 100 == 0
        x, w = int(box[0]), max(1, int(box[2]))
        runs = [x * height, w * height, (width - x - w) * height]
        segmentation = {"size": [height, width], "counts": runs} if crowd else [points.ravel().tolist()]
        annotations.append(
            {
                "id": number,
                "image_id": 1 + number % num_images,
                "category_id": 1 + number % 80,
                "iscrowd": int(crowd),
                "bbox": [x, 0, w, height] if crowd else box,
                "area": float(w * height if crowd else box[2] * box[3] * 0.7 + 1),
                "segmentation": segmentation,
            }
        )
    categories = [{"id": i, "name": f"category {i}"} for i in range(1, 81)]
    write_json(folder / "instances.json", {"images": images, "annotations": annotations, "categories": categories})


def read(reader: str, folder: Path) -> None:
    """Read the data set in this process and print seconds, peak memory in MiB, and the number of objects."""
    json_file, image_root = str(folder / "instances.json"), str(folder / "images")
    if reader == "detectron2":
        from detectron2.data.datasets import load_coco_json

        start = time.perf_counter()
        records = load_coco_json(json_file, image_root, "benchmark")
    else:
        from tellapart.data import read_dataset, register_coco_folder
        from tellapart.data.statistics import Objects
        from tellapart.engine.config_checks import load_config
        from tellapart.engine.size_checks import size_warnings

        cfg = load_config("FCIS/fcis_R_50_FPN.yaml", ["MODEL.DEVICE", "cpu"])

        register_coco_folder("benchmark", json_file, image_root)
        start = time.perf_counter()
        content = read_dataset("benchmark")
        content.check_trainable(needs_masks=True)
        size_warnings(cfg, Objects.from_records(content.records), "benchmark")
        records = content.records
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()  # getrusage would report the parent's peak as well
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    num_objects = sum(len(record["annotations"]) for record in records)
    print(json.dumps([seconds, peak / 1024, num_objects]))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=NUM_IMAGES)
    parser.add_argument("--objects", type=int, default=NUM_OBJECTS)
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reader:
        import tellapart.data  # noqa: F401

        import detectron2.data  # noqa: F401 (so that the memory of the imports is not counted)

        read(args.reader, args.folder)
        return
    write_dataset(args.folder, args.images, args.objects)
    results = {}
    print("| reader | seconds | MiB | objects |\n|---|---|---|---|")
    for reader in READERS:
        command = [sys.executable, __file__, str(args.folder), "--reader", reader]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        results[reader] = json.loads(output.splitlines()[-1])
        seconds, memory, num_objects = results[reader]
        print(f"| {reader} | {seconds:.1f} | {memory:.0f} | {num_objects} |", flush=True)
    (base_seconds, base_memory, _), (seconds, memory, _) = results.values()
    print(f"ratio: {seconds / base_seconds:.2f} of the time, {memory / base_memory:.2f} of the memory")


if __name__ == "__main__":
    run_command(main)
