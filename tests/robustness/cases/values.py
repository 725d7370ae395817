"""Values of the config that can only fail later."""

from __future__ import annotations

from pathlib import Path

from ..case import Case, Inputs, Refused, Trains, edited, one_set, refused, trains
from ..coco_set import write_set


def value(key: str, given: str, *says: str, accepted: bool = False) -> Case:
    """A value that must be refused with the key's name (or accepted)."""
    expect = Trains(12) if accepted else Refused((key.replace(".", r"\."), *says))
    return Case(f"{key}={given}".replace("/", "_"), edited(), expect, options=(key, given))


def train_is_text(folder: Path) -> Inputs:
    write_set(folder)
    return Inputs(one_set(folder).sets, options=("DATASETS.TRAIN", "mine"))


def test_is_text(folder: Path) -> Inputs:
    write_set(folder)
    return Inputs(one_set(folder).sets, options=("DATASETS.TEST", "mine"))


def no_train_set(folder: Path) -> Inputs:
    write_set(folder)
    return Inputs(one_set(folder).sets, train=())


def file_as_output(folder: Path) -> Inputs:
    write_set(folder)
    (folder / "taken").write_text("")
    return Inputs(one_set(folder).sets, options=("OUTPUT_DIR", str(folder / "taken")))


CASES = [
    value("SOLVER.IMS_PER_BATCH", "0"),
    value("SOLVER.IMS_PER_BATCH", "-2"),
    value("SOLVER.MAX_ITER", "0"),
    value("SOLVER.MAX_ITER", "-1"),
    value("SOLVER.CHECKPOINT_PERIOD", "0"),
    value("SOLVER.CHECKPOINT_PERIOD", "-5"),
    value("SOLVER.LR_SCHEDULER_NAME", "WarmupMultistepLR", "WarmupMultiStepLR"),
    value("SOLVER.BASE_LR", "-0.1"),
    value("SOLVER.BASE_LR", ".nan"),
    value("SOLVER.OPTIMIZER", "LION"),
    value("SOLVER.STEPS", "(1, 0)"),
    value("TEST.EVAL_PERIOD", "-1"),
    value("TEST.EVALUATORS", "['voc']"),
    value("TEST.EVALUATORS", "[]"),
    value("TEST.DETECTIONS_PER_IMAGE", "0"),
    value("TEST.AUG.MIN_SIZES", "(0, 200)"),
    value("SOLVER.EMA_DECAY", "1.0"),
    value("MODEL.LOAD_PROPOSALS", "True"),
    value("MODEL.DEVICE", "gpu"),
    value("MODEL.DEVICE", "cuda:x"),
    value("MODEL.PIXEL_STD", "[0.0, 1.0, 1.0]"),
    value("MODEL.PIXEL_MEAN", "[]"),
    value("MODEL.ROI_HEADS.NUM_CLASSES", "0"),
    value("INPUT.FORMAT", "RBG"),
    value("INPUT.RANDOM_FLIP", "diagonal", "horizontal"),
    value("INPUT.MASK_FORMAT", "rle", "polygon"),
    value("INPUT.MIN_SIZE_TRAIN", "()"),
    value("INPUT.MIN_SIZE_TRAIN", "(-8,)"),
    value("INPUT.MIN_SIZE_TRAIN_SAMPLING", "random"),
    value("INPUT.MAX_SIZE_TRAIN", "0"),
    value("INPUT.MIN_SIZE_TEST", "-1"),
    value("INPUT.SCALING", "histogram", "percentile"),
    value("INPUT.SCALING", "[5, 5]"),
    value("INPUT.PAGES", "last", "first"),
    value("INPUT.EXIF", "maybe", "apply"),
    value("INPUT.MAX_PIXELS", "0"),
    value("DATALOADER.BAD_ANNOTATIONS", "ignore", "drop", "stop"),
    value("DATALOADER.NUM_WORKERS", "-1"),
    value("DATALOADER.SAMPLER_TRAIN", "Sampler", "TrainingSampler"),
    value("SEED", "4294967296"),
    value("SEED", "-1", accepted=True),
    Case("crop_type", edited(), refused(r"INPUT\.CROP\.TYPE"),
         options=("INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "relatve_range")),
    Case("crop_size", edited(), refused(r"INPUT\.CROP\.SIZE"),
         options=("INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE", "[0.0, 0.5]")),
    Case("crop_enabled", edited(), trains(12), options=("INPUT.CROP.ENABLED", "True")),
    Case("crop_larger_than_images", edited(), Trains(12), options=(
         "INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", "[500, 500]")),
    Case("amp_without_cuda", edited(), Refused((r"SOLVER\.AMP\.ENABLED",)), options=("SOLVER.AMP.ENABLED", "True")),
    Case("train_is_text", train_is_text, refused(r"DATASETS\.TRAIN", "tuple")),
    Case("test_is_text", test_is_text, refused(r"DATASETS\.TEST", "tuple")),
    Case("train_is_empty", no_train_set, refused(r"DATASETS\.TRAIN")),
    Case("output_is_a_file", file_as_output, refused("OUTPUT_DIR", "taken")),
    Case("max_iter_0_process", edited(), refused(r"SOLVER\.MAX_ITER"), options=("SOLVER.MAX_ITER", "0"), process=True),
    Case("no_mask_format_of_other_case", edited(), refused(r"INPUT\.MASK_FORMAT"),
         options=("INPUT.MASK_FORMAT", "Bitmask")),
]  # fmt: skip
