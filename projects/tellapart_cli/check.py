"""Read data sets as training does: what is wrong, what they contain, and which method and settings fit.

examples:
  tellapart check annotations.json:images
  tellapart check train.json:images val.json:images --config-file quick/fcis/fcis_R_18_nuclei.yaml
  tellapart check --config-file CONFIG --opts INPUT.SCALING full_range

Exit codes: 0, or 1 if training would fail.
"""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``tellapart check``."""
    parser.add_argument(
        "data",
        nargs="*",
        metavar="DATA",
        help="a registered name, JSON:IMAGES, NAME=JSON:IMAGES, or a JSON file beside its images; the first is for "
        "training, the others are for testing (default: those of the config)",
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="check this config and the data against it")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config options")


def run(args: argparse.Namespace) -> None:
    """Check, and exit with 1 if training would fail."""
    from tellapart.engine.dataset_report import check

    sys.exit(check(args.data, args.config_file, args.opts))
