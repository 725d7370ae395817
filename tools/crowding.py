#!/usr/bin/env python
"""How much of what a region of interest sees is not its instance: of the object pixels in an instance's box the share
that are other instances' only. Where it is high, a network has to know whose pixel it looks at, which is what FCIS,
InstanceFCN and semi-convolutional operators are for; where it is near 0, any mask head will do.

Example:
    python tools/crowding.py shapes_val nuclei_val bbbc010_test
"""

from __future__ import annotations

import argparse

from tellapart.data.annotations import decode_gt_masks
from tellapart.data.coco_folder import check_dataset
from tellapart.errors import InputError, run_command

import numpy as np
from detectron2.data import DatasetCatalog


def foreign_shares(masks: np.ndarray) -> list[float]:
    """For each of the masks, bool (N, H, W), with a pixel: of the pixels that any mask has in this one's tight box the
    share that this one does not have, 0 to 1."""
    objects, shares = masks.any(0), []
    for mask in masks[masks.any((1, 2))]:
        y, x = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        box = np.s_[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        shares.append(1.0 - float(mask[box].sum() / objects[box].sum()))
    return shares


def main() -> None:
    """Read the names, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", help="names of registered data sets, as in DATASETS.TEST")
    args = parser.parse_args()
    print("| data set | instances | mean | median | 90th percentile |\n|---|---|---|---|---|")
    for name in args.datasets:
        check_dataset(name)
        shares = [share for record in DatasetCatalog.get(name) for share in foreign_shares(decode_gt_masks(record))]
        if not shares:
            raise InputError(f"data set {name} has no instance with a mask")
        cells = [np.mean(shares), *np.percentile(shares, [50, 90])]
        print(f"| {name} | {len(shares)} | {' | '.join(f'{100 * c:.1f} %' for c in cells)} |", flush=True)


if __name__ == "__main__":
    run_command(main)
