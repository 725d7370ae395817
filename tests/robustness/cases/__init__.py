"""The rows of the table, by kind of input."""

from __future__ import annotations

from ..case import Case
from . import boxes, catalogs, checkpoints, crowds, files, ids, images, json_text, polygons, rles, sets, values

CASES: list[Case] = [
    *crowds.CASES,
    *boxes.CASES,
    *polygons.CASES,
    *rles.CASES,
    *ids.CASES,
    *files.CASES,
    *json_text.CASES,
    *images.CASES,
    *sets.CASES,
    *values.CASES,
    *checkpoints.CASES,
    *catalogs.CASES,
]
