"""The one reader of data sets: COCO files and registered functions, as normalized Detectron2 dataset dicts.

Training, evaluation, prediction, tools and pictures all read through :func:`read_dataset`, so that they see the same
objects, under the real and under the embedded Detectron2.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import InputError, did_you_mean
from ..files import write_json
from .coco_content import read_coco
from .content import DatasetContent
from .registered_dicts import read_registered

BAD_ANNOTATIONS = ("drop", "stop")


@dataclass(frozen=True)
class CocoFolder:
    """A function for ``DatasetCatalog``: returns the normalized records of a COCO JSON file and a folder of images.

    Attributes:
        name: the registered name.
        json_file: path of the COCO JSON file.
        image_root: folder that the ``file_name`` of its images is relative to.
        ensure: called before reading, to create or find the files.
    """

    name: str
    json_file: str
    image_root: str
    ensure: Callable[[], object] | None = None

    def __call__(self) -> list[dict]:
        """Read the data set anew.

        Raises:
            InputError: see :func:`read_dataset`.
        """
        content = self.read(None)
        content.report("drop")
        return content.records

    def read(self, masks: bool | None) -> DatasetContent:
        """Read the data set anew, see :func:`read_dataset`."""
        if self.ensure is not None:
            self.ensure()
        return read_coco(self.name, self.json_file, self.image_root, masks)


# What has been read in this process, by name, masks, and the state of the file. See release_dataset.
_contents: dict[tuple, DatasetContent] = {}
# Summaries that were logged: a data set that is read again is reported once.
_reported: set[tuple] = set()


def read_dataset(name: str, *, masks: bool | None = None, bad_annotations: str = "drop") -> DatasetContent:
    """Read, normalize and check a registered data set.

    A data set in COCO format, registered by us or by ``register_coco_instances``, is read from its file. The dicts of
    any other function in ``DatasetCatalog`` are normalized in the same way. What was changed or dropped is logged as
    one summary. A data set whose file did not change is read once per process.

    Args:
        name: the registered name.
        masks: whether every object must have a mask (``MODEL.MASK_ON``); objects without one are dropped. False: boxes
            are enough, and segmentations are not read except for boxes that are missing. None: True if any annotation
            has a segmentation.
        bad_annotations: ``DATALOADER.BAD_ANNOTATIONS``. "drop": go on without what cannot be used. "stop": raise.

    Raises:
        InputError: there is no such data set (similar names are listed), a file is missing or is not in COCO format,
            ids contradict each other, or there are bad annotations and ``bad_annotations`` is "stop".
    """
    if bad_annotations not in BAD_ANNOTATIONS:
        raise InputError(f"DATALOADER.BAD_ANNOTATIONS is {bad_annotations!r}, expected 'drop' or 'stop'")
    source = _find_source(name)
    if isinstance(source, CocoFolder) and source.ensure is not None:
        source.ensure()
    key = (name, masks, *_state(source))
    content = _contents.get(key)
    if content is None:
        release_dataset(name, masks)
        content = source.read(masks) if isinstance(source, CocoFolder) else read_registered(name, source, masks)
        _contents[key] = content
        if masks is None:  # it is the same as with the value that was found
            _contents[(name, content.has_masks, *key[2:])] = content
    report = (name, *key[2:], content.changes.summary())
    if report not in _reported or bad_annotations == "stop":
        content.report(bad_annotations)
        _reported.add(report)
    return content


def release_dataset(name: str, masks: bool | None) -> None:
    """Forget what :func:`read_dataset` has read, when a loader has its own copy: COCO's dicts need gigabytes."""
    for key in [key for key in _contents if key[:2] == (name, masks)]:
        del _contents[key]


def _find_source(name: str) -> CocoFolder | Callable[[], list[dict]]:
    known = DatasetCatalog.list()
    if name not in known:
        hint = did_you_mean(name, known, 3, cutoff=0.5) or "; --register NAME=JSON:IMAGES adds your own"
        raise InputError(f"There is no data set {name}{hint}")
    function = DatasetCatalog[name]
    metadata = MetadataCatalog.get(name)
    json_file, image_root = metadata.get("json_file", None), metadata.get("image_root", None)
    # Detectron2's register_coco_instances registers a function of this module, which reads these two.
    if getattr(function, "__module__", "") == "detectron2.data.datasets.coco" and json_file and image_root is not None:
        return CocoFolder(name, str(json_file), str(image_root))
    return function


def _state(source: CocoFolder | Callable) -> tuple:
    """Return what changes when a data set is replaced: the path, size and time of its file, or its function."""
    if not isinstance(source, CocoFolder) or not os.path.isfile(source.json_file):
        return (source,)
    stat = os.stat(source.json_file)
    return source.json_file, source.image_root, stat.st_size, stat.st_mtime_ns


def evaluation_metadata(content: DatasetContent, folder: str) -> str:
    """Return the name of metadata in ``MetadataCatalog`` whose ``json_file`` has the normalized annotations.

    For a data set whose file needed no changes this is the data set itself. For any other the normalized annotations
    are written to ``folder``, and the metadata of "<name> (normalized)" names that file. Evaluators that are built with
    this name read the objects that the model was trained on, and nothing in the file can make them fail.

    Args:
        content: of the data set.
        folder: for the file; created if it does not exist.

    Raises:
        InputError: the file cannot be written.
    """
    metadata = MetadataCatalog.get(content.name)
    given = metadata.get("json_file", None)
    if not content.json_file and given and os.path.isfile(given):
        # Dicts of a function with a COCO file of its own: the file is what its author wants to evaluate on.
        content = read_coco(content.name, str(given), None, content.has_rle or content.has_polygons or None)
    if content.coco is None:
        return content.name
    path = Path(folder) / f"{content.name}_annotations.json"
    write_json(path, content.coco)
    name = f"{content.name} (normalized)"
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)
    others = {key: value for key, value in vars(metadata).items() if key not in ("name", "json_file")}
    others["thing_classes"] = content.classes
    others["thing_dataset_id_to_contiguous_id"] = {c: i for i, c in enumerate(content.category_ids)}
    MetadataCatalog.get(name).set(**others, json_file=str(path))
    return name
