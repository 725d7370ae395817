"""The 28 cases of ``shared/data/cases``: what to run and what is expected, for the tests and for report.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .case import Case, Inputs, Refused, Trains, refused, trains
from .run import ROOT, Outcome, arguments, forget_sets

NO_MASKS = ("MODEL.MASK_ON", "False")


@dataclass(frozen=True)
class SharedCase:
    """A folder of ``shared/data/cases``.

    Attributes:
        id: the folder's name.
        expect: what the run must do.
        model: the kind of model.
        options: further KEY VALUE words.
        train: JSON files to train on.
        test: JSON files to evaluate on.
        script: a prepare script to run instead of a training.
    """

    id: str
    expect: Trains | Refused
    model: str = "fcis"
    options: tuple[str, ...] = ()
    train: tuple[str, ...] = ("a.json",)
    test: tuple[str, ...] = ("a.json",)
    script: str = ""


HALF = r"\b6\b"
SHARED_CASES = [
    SharedCase("a01_all_crowd_rle_list", refused("crowd")),
    SharedCase("a02b_iscrowd_null_some", trains(12, "iscrowd.*" + HALF)),
    SharedCase("a05_iscrowd_missing", trains(12, r"iscrowd.*\b12\b")),
    SharedCase("a07_seg_empty_some", trains(6, HALF)),
    SharedCase("a09_seg_emptypoly_some", trains(6, HALF)),
    SharedCase("a10b_seg_is_bbox_some", trains(6, "point.*" + HALF)),
    SharedCase("a14_mixed_poly_rle", trains(12, "bitmask"), options=("INPUT.MASK_FORMAT", "polygon")),
    SharedCase("a17_rle_counts_garbage", trains(11, r"\b1\b.*\b4\b")),
    SharedCase("a17b_rle_counts_cut", trains(11, r"\b1\b.*\b4\b")),
    SharedCase("a22c_poly_line_all", refused("area|pixel")),
    SharedCase("a24d_poly_normalised", refused("pixel|0 (and|to) 1")),
    SharedCase("a29b_bbox_all_zero", trains(12, r"box.*\b12\b")),
    SharedCase("a32_bbox_xyxy", trains(12, r"box.*\b1[0-2]\b")),
    SharedCase("a35_area_missing", trains(12, r"area.*\b12\b")),
    SharedCase("a44b_dup_file_names", trains(12, r"1\.png")),
    SharedCase("a48e_unicode_nfd", trains(12)),
    SharedCase("a51c_anns_missing_eval", Trains(12, evaluates=False), train=("../a05_iscrowd_missing/a.json",)),
    SharedCase("b07_seg_empty_maskoff", trains(12), "mask_rcnn", NO_MASKS),
    SharedCase("b69_test_names_swapped", refused("c1", "c2"), train=("train.json",), test=("test.json",)),
    SharedCase("b71_two_train_other_names", refused("dog", "c1"), train=("x.json", "y.json"), test=("x.json",)),
    SharedCase("c02_png16_full", trains(12, r"INPUT\.SCALING|percentile")),
    SharedCase("c03_tiff_float01", trains(12, r"INPUT\.SCALING|percentile")),
    SharedCase("c04_tiff_multipage", trains(12, "page")),
    SharedCase("c07b_mask01", trains(12)),
    SharedCase("c10c_exif3_raw_anns_SILENT", trains(12, "EXIF")),
    SharedCase("d01c_3000x2", trains(2)),
    SharedCase("g01j_dsb_palette_mask", Trains(None, evaluates=False), script="prepare_dsb2018.py"),
    SharedCase("m01_short_first", trains(12, "point")),
]


def command(case: SharedCase, folder: Path, output: Path) -> list[str]:
    """Return the command line, without the interpreter and the script's name."""
    if case.script:
        return ["--root", str(folder), "--output", str(output / "prepared")]
    sets = {json_name: f"set_{i}" for i, json_name in enumerate(dict.fromkeys((*case.train, *case.test)))}
    registered = tuple(
        (name, folder / json_name, (folder / json_name).parent / "images") for json_name, name in sets.items()
    )
    inputs = Inputs(registered, tuple(sets[j] for j in case.train), tuple(sets[j] for j in case.test))
    plain = Case(case.id, lambda _: None, case.expect, case.options)
    return arguments(plain, inputs, output, case.model, None)


def run_shared(case: SharedCase, folder: Path, output: Path, run_here: Callable, run_process: Callable) -> Outcome:
    """Run a case: trainings in this process, prepare scripts in another."""
    words = command(case, folder, output)
    if case.script:
        return run_process([str(ROOT / "datasets" / case.script), *words], output)
    forget_sets()
    outcome = run_here(words, folder=output)
    outcome.folder = str(folder)
    return outcome
