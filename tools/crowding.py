#!/usr/bin/env python
"""Measure how crowded a data set is: which part of the object pixels in an instance's box belongs to other instances.

Where it is large, a network must decide which object a pixel belongs to. FCIS, InstanceFCN and semi-convolutional
operators are made for such data. Where it is close to 0, any mask head is sufficient.

Example:
    python tools/crowding.py shapes_val nuclei_val bbbc010_test
"""

from __future__ import annotations

import argparse

from tellapart.data.annotations import decode_gt_masks
from tellapart.data.data_argument import register_argument
from tellapart.data.reader import read_dataset
from tellapart.errors import InputError, run_command

import numpy as np


def other_instance_fractions(masks: np.ndarray) -> list[float]:
    """Return, per non-empty mask, the fraction of object pixels in its tight box that belong only to other masks.

    Args:
        masks: bool (N, H, W).

    Returns:
        One number in [0, 1] per mask with at least one pixel.
    """
    objects, fractions = masks.any(0), []
    for mask in masks[masks.any((1, 2))]:
        y, x = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        box = np.s_[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        fractions.append(1.0 - float(mask[box].sum() / objects[box].sum()))
    return fractions


def main() -> None:
    """Print a Markdown table with one row per data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", help="registered names, JSON:IMAGES, or folders")
    args = parser.parse_args()
    print("| data set | instances | mean | median | 90th percentile |\n|---|---|---|---|---|")
    for name in args.datasets:
        records = read_dataset(register_argument(name), masks=True).records
        fractions = [value for record in records for value in other_instance_fractions(decode_gt_masks(record))]
        if not fractions:
            raise InputError(f"data set {name} has no instance with a mask")
        cells = [np.mean(fractions), *np.percentile(fractions, [50, 90])]
        print(f"| {name} | {len(fractions)} | {' | '.join(f'{100 * c:.1f} %' for c in cells)} |", flush=True)


if __name__ == "__main__":
    run_command(main)
