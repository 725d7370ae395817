"""``segmentation`` as polygons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..case import Case, edited, refused, trains
from ..coco_set import HALF, HEIGHT, ONE, WIDTH, put
from ..run import ALL_MODELS

NAN = float("nan")
STOP = ("DATALOADER.BAD_ANNOTATIONS", "stop")
SIX = r"\b6\b"


def each(change: Callable[[list[float]], Any]) -> Callable[[dict], list]:
    """Return a function for ``put`` that changes every polygon."""
    return lambda annotation: [change(list(polygon)) for polygon in annotation["segmentation"]]


def normalized(polygon: list[float]) -> list[float]:
    return [v / (WIDTH, HEIGHT)[i % 2] for i, v in enumerate(polygon)]


def pairs(polygon: list[float]) -> list[list[float]]:
    return [polygon[i : i + 2] for i in range(0, len(polygon), 2)]


def points(polygon: list[float]) -> list[dict]:
    return [{"x": x, "y": y} for x, y in pairs(polygon)]


def shifted(dx: float, dy: float) -> Callable[[list[float]], list[float]]:
    return lambda polygon: [v + (dx, dy)[i % 2] for i, v in enumerate(polygon)]


def star(polygon: list[float]) -> list[float]:
    """Connect every fifth vertex: a self-crossing polygon with the same extent."""
    vertices = pairs(polygon)
    return [v for i in range(12) for v in vertices[5 * i % 12]]


def many_vertices(polygon: list[float]) -> list[float]:
    """Divide every edge into 500."""
    vertices = pairs(polygon)
    edges = zip(vertices, [*vertices[1:], vertices[0]])
    return [a[i] + (b[i] - a[i]) * step / 500 for a, b in edges for step in range(500) for i in (0, 1)]


def one_value(value: Any, index: int = 3) -> Callable[[list], list]:
    return lambda polygon: [*polygon[:index], value, *polygon[index + 1 :]]


def seg(value: Any, which: slice | int = HALF) -> Callable:
    return edited(put("segmentation", value, which))


CASES = [
    Case("seg_empty_some", seg([]), trains(6, "(segmentation|mask).*" + SIX), models=ALL_MODELS),
    Case("seg_empty_all", seg([], slice(None)), refused("segmentation|mask")),
    Case("seg_empty_some_stop", seg([]), refused("segmentation|mask", r"\b1\b.*\b3\b.*\b5\b"), options=STOP),
    Case("seg_null_some", seg(None), trains(6, "(segmentation|mask).*" + SIX)),
    Case("seg_missing_some", seg(...), trains(6, "(segmentation|mask).*" + SIX)),
    Case("seg_missing_all", seg(..., slice(None)), refused("segmentation|mask")),
    Case("seg_text", seg("polygon"), trains(6, SIX)),
    Case("seg_number", seg(7), trains(6, SIX)),
    Case("polygon_empty_some", seg([[]]), trains(6, SIX), models=ALL_MODELS),
    Case("polygon_one_point", seg([[10, 10]]), trains(6, "point.*" + SIX)),
    Case("polygon_two_points", seg([[10, 10, 20, 20]]), trains(6, "point.*" + SIX)),
    Case("polygon_is_box_some", seg(lambda a: [list(a["bbox"])]), trains(6, "point.*" + SIX), models=ALL_MODELS),
    Case("polygon_is_box_all", seg(lambda a: [list(a["bbox"])], slice(None)), refused("point")),
    Case("polygon_short_first", seg(lambda a: [[10, 10, 20, 20], *a["segmentation"]], slice(None)),
         trains(12, r"point.*\b12\b"), models=ALL_MODELS),
    Case("polygon_short_first_stop", seg(lambda a: [[10, 10, 20, 20], *a["segmentation"]], ONE),
         refused("point", r"\b4\b"), options=STOP),
    Case("polygon_odd_numbers", seg(each(lambda p: p[:-1])), trains(6, SIX)),
    Case("polygon_line_all", seg([[10, 10, 20, 20, 30, 30]], slice(None)), refused("area|pixel")),
    Case("polygon_line_some", seg([[10, 10, 20, 20, 30, 30]]), trains(6, SIX)),
    Case("polygon_same_point", seg([[10, 10] * 6]), trains(6, SIX)),
    Case("polygon_nan", seg(each(one_value(NAN))), trains(6, SIX)),
    Case("polygon_infinite", seg(each(one_value(float("inf")))), trains(6, SIX)),
    Case("polygon_1e9_one_value", seg(each(one_value(1e9))), trains(6, SIX)),
    Case("polygon_1e9_all_values", seg([[1e9, 1e9, 2e9, 1e9, 2e9, 2e9]]), trains(6, SIX)),
    Case("polygon_1e300", seg(each(one_value(1e300))), trains(6, SIX)),
    Case("polygon_minus_1e9", seg(each(one_value(-1e9))), trains(6, SIX)),
    Case("polygon_integer_of_400_digits", seg(each(one_value(10**400))), trains(6, SIX)),
    Case("polygon_pairs", seg(each(pairs), slice(None)), trains(12, r"\b12\b"), models=ALL_MODELS),
    Case("polygon_pairs_not_nested", seg(lambda a: pairs(a["segmentation"][0]), slice(None)), trains(12)),
    Case("polygon_triples", seg(each(lambda p: [[*xy, 0] for xy in pairs(p)])), trains(6, SIX)),
    Case("polygon_points_as_dicts", seg(each(points), slice(None)), trains(12)),
    Case("polygon_not_nested", seg(lambda a: a["segmentation"][0], slice(None)), trains(12)),
    Case("polygon_nested_deeper", seg(lambda a: [a["segmentation"]], slice(None)),
         refused("polygon|segmentation")),
    Case("polygon_closed", seg(each(lambda p: [*p, *p[:2]]), slice(None)), trains(12)),
    Case("polygon_self_crossing", seg(each(star), slice(None)), trains(12)),
    Case("polygon_outside", seg(each(shifted(500, 0))), trains(6, SIX)),
    Case("polygon_outside_all", seg(each(shifted(500, 0)), slice(None)), refused("pixel|outside")),
    Case("polygon_partly_outside", seg(each(shifted(-6, -4)), slice(None)), trains(12)),
    Case("polygon_normalized", seg(each(normalized), slice(None)), refused(r"0 (and|to|\.\.) 1|normalized"),
         models=ALL_MODELS),
    Case("polygon_text_numbers", seg(each(lambda p: [str(v) for v in p])), trains(12)),
    Case("polygon_text", seg(["10,10,20,10,20,20"]), trains(6, SIX)),
    Case("polygon_null", seg([None]), trains(6, SIX)),
    Case("polygon_null_value", seg(each(one_value(None))), trains(6, SIX)),
    Case("polygon_true_value", seg(each(one_value(True))), trains(None)),
    Case("polygon_integers", seg(each(lambda p: [round(v) for v in p]), slice(None)), trains(12)),
    Case("polygon_many_vertices", seg(each(many_vertices), slice(None)), trains(12)),
    Case("polygon_bad_kept_part", seg(lambda a: [*a["segmentation"], [NAN, 1, 2, 3, 4, 5]]), trains(12, SIX)),
    Case("polygon_short_eval_only", seg([[10, 10, 20, 20]]), trains(6, SIX), flags=("--eval-only",), weights=True),
]  # fmt: skip
