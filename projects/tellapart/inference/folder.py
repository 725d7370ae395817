"""Predict many images and write files of the results; a run that was stopped can be continued."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from ..data.image_source import ImageSource
from ..errors import InputError, did_you_mean
from .image_files import find_images, result_names
from .measurements import measure
from .merging import Detections
from .predictor import Predictor
from .records import ImageRecord, is_done, record_path, write_coco, write_record, write_tables
from .writers import write_geojson, write_label_stack, write_labels, write_overlay, write_rois

KINDS = ("coco", "labels", "overlay", "csv", "rois", "geojson")


class _CannotWrite(InputError):
    """The results cannot be written, which is no fault of the image."""


@dataclass
class FolderResult:
    """What happened to one image.

    Attributes:
        path: of the image.
        num_instances: None if it failed or was done before.
        error: why it could not be predicted, or "".
    """

    path: Path
    num_instances: int | None = None
    error: str = ""


@dataclass
class _Job:
    predictor: Predictor
    output: Path
    kinds: tuple[str, ...]
    progress: bool
    settings: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        weights = Path(self.predictor.cfg.MODEL.WEIGHTS)
        state = [str(weights.resolve()), weights.stat().st_mtime_ns] if weights.is_file() else [str(weights)]
        config = self.predictor.cfg.dump()
        self.settings = {
            "weights": state,
            "threshold": self.predictor.threshold,
            "tile": self.predictor.tile,
            "save": list(self.kinds),
            "config": config,
        }

    def predict(self, path: Path, name: str) -> int:
        """Predict an image and write its files, the record last; return the number of instances."""
        record = ImageRecord.of_file((Path(name).parent / path.name).as_posix(), path, self.settings)
        source = self.predictor.open(path)
        detections = Detections.of_parts(list(self.predictor.detections(source, self.progress)))
        has_pixels = detections.masks.areas() > 0
        self.predictor.limits.num_empty += int((~has_pixels).sum())
        detections = detections[has_pixels]
        try:
            self._write(record, name, source, detections)
        except OSError as error:
            raise _CannotWrite(f"the results of {path} cannot be written to {self.output}: {error}") from error
        return len(detections)

    def _write(self, record: ImageRecord, name: str, source: ImageSource, detections: Detections) -> None:
        names = self.predictor.class_names
        if "labels" in self.kinds:
            write_labels(self._path("labels", f"{name}.tif"), detections)
            stack = self._path("labels", f"{name}_stack.tif")
            if not write_label_stack(stack, detections):
                stack.unlink(missing_ok=True)
        if "overlay" in self.kinds:
            write_overlay(self._path("overlays", f"{name}.png"), source, detections)
        if "rois" in self.kinds:
            write_rois(self._path("rois", f"{name}.zip"), detections, names)
        if "geojson" in self.kinds:
            write_geojson(self._path("geojson", f"{name}.geojson"), detections, names)
        record.height, record.width = source.height, source.width
        record.num_channels = source.stored(0, 0, 1, 1).shape[2]
        record.counts = {n: int((detections.classes == i).sum()) for i, n in enumerate(names)}
        rows = measure(record.image, detections, source, names) if "csv" in self.kinds else [None] * len(detections)
        write_record(record_path(self.output, name), record, rows, coco_results(detections))

    def _path(self, folder: str, name: str) -> Path:
        path = self.output / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def coco_results(detections: Detections) -> list[dict]:
    """Return instances as COCO results without image ids; category ids count from 1."""
    boxes = detections.boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]
    values = zip(detections.classes.tolist(), boxes.tolist(), detections.scores.tolist(), detections.masks.to_rles())
    return [
        {
            "category_id": category + 1,
            "bbox": box,
            "score": score,
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        }
        for category, box, score, rle in values
    ]


def parse_kinds(text: str) -> tuple[str, ...]:
    """Return the kinds of files in a list such as "labels,csv".

    Raises:
        InputError: a kind is unknown.
    """
    kinds = tuple(dict.fromkeys(kind.strip() for kind in text.split(",") if kind.strip()))
    for kind in kinds:
        if kind not in KINDS:
            hint = did_you_mean(kind, KINDS) or f"; expected some of {','.join(KINDS)}"
            raise InputError(f"--save has {kind!r}{hint}")
    if not kinds:
        raise InputError(f"--save is empty; expected some of {','.join(KINDS)}")
    return kinds


def predict_folder(
    predictor: Predictor, images: Sequence[str | Path], output: str | Path, *,
    save: Sequence[str] = ("labels", "overlay", "csv"), resume: bool = False, progress: bool = True,
) -> Iterator[FolderResult]:  # fmt: skip
    """Predict images one by one and write the results; yield what happened to each.

    Every file is written completely or not at all, and the tables of all images at the end. An image that cannot be
    read is reported, and the others go on.

    Args:
        predictor: the model.
        images: files, patterns and folders, see :func:`find_images`.
        output: folder for the results, see ``docs/prediction.md``.
        save: kinds of files, of ``KINDS``.
        resume: skip images that an earlier call has finished with the same model and settings.
        progress: show a progress bar on stderr.

    Raises:
        InputError: there are no images, or the results cannot be written.
    """
    files = find_images(images)
    names, output = result_names(files), Path(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not os.access(output, os.W_OK):
            raise PermissionError("no permission to write")
    except OSError as error:
        raise InputError(f"output folder {output} cannot be used: {error}") from error
    job = _Job(predictor, output, parse_kinds(",".join(save)), progress)
    if not resume:
        shutil.rmtree(record_path(output, "x").parent, ignore_errors=True)
    failed: dict[str, str] = {}
    done: list[Path] = []
    for path, name in zip(tqdm(files, desc="images", unit="image", disable=not progress), names):
        result = FolderResult(path)
        record = record_path(output, name)
        try:
            if not (resume and is_done(record, ImageRecord.of_file("", path, job.settings))):
                record.unlink(missing_ok=True)
                result.num_instances = job.predict(path, name)
            done.append(record)
        except _CannotWrite:
            raise
        except (OSError, InputError) as error:
            reason = " ".join(str(error).removeprefix(f"cannot read the image {path}: ").split())
            failed[str(path)] = result.error = reason or type(error).__name__
        yield result
    try:
        if "csv" in job.kinds:
            write_tables(output, done, predictor.class_names, failed)
        if "coco" in job.kinds:
            write_coco(output, done, predictor.class_names)
    except OSError as error:
        raise InputError(f"the tables cannot be written to {output}: {error}") from error
