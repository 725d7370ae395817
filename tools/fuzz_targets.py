"""What fuzz_readers.py breaks and reads: valid files, the readers, and the ways to break a file."""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import math
import pickle
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tellapart.data import register_coco_folder
from tellapart.data.image_reading import ImageReader
from tellapart.data.loader import GuardedMapper, guard
from tellapart.data.reader import evaluation_metadata, read_dataset, release_dataset
from tellapart.engine.checkpoint import Checkpointer
from tellapart.errors import InputError

import numpy as np
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BitMasks, Boxes, Instances
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

HEIGHT, WIDTH = 24, 32
NAN, INFINITY = float("nan"), float("inf")
# Values that are put in the place of any value of a JSON file.
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 0.5, 1e-9, 1e9, -1e9, 1e300, NAN, INFINITY, -INFINITY, 2**31, 2**63, 10**400),
    *("", "0", "1", "abc", "1.5", "\0", "\ud800", "é", "PPYo0", "garbage!!", "0" * 50, "o" * 30),
    *([], [[]], [None], [0], [1, 2, 3], [1, 2, 3, 4], [[1, 2]], [[1, 2, 3, 4, 5, 6]], [[1, 2], [3, 4], [5, 1]], ["a"]),
    *([5, 5, 9, 9], [0, 0, 0, 0], [-5, -5, 3, 3], [[5, 5, 20, 5, 20, 20, 5, 20]], [[5, 5, 20, 5, 20, NAN]]),
    *({}, {"counts": "PPYo0", "size": [HEIGHT, WIDTH]}, {"counts": [HEIGHT * WIDTH], "size": [HEIGHT, WIDTH]}),
    *({"counts": [1, 2], "size": [1, 3]}, {"size": [HEIGHT, WIDTH]}, {"counts": "01", "size": [2**31, 2**31]}),
]


# --- readers ----------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> None:
    """Read a COCO file, and do with it what training and evaluation do."""
    folder = path.parent
    for masks in (True, False):
        exercise_dataset(path, folder / "images", masks)


def exercise_dataset(json_file: Path, image_root: Path, masks: bool) -> None:
    """Read a data set, then map its images for training, evaluate on it, and read its annotations by pycocotools.

    Raises:
        InputError: the data set is refused.
        AssertionError: it was accepted, but a result is wrong.
    """
    name = "fuzz"
    forget(name)
    register_coco_folder(name, str(json_file), str(image_root))
    content = read_dataset(name, masks=masks)
    for mask_format in ("polygon", "bitmask"):
        if masks and (mask_format == "bitmask" or not content.has_rle):
            map_records(content.records, mask_format)
    if not masks:
        map_records(content.records, None)
    with tempfile.TemporaryDirectory() as folder:
        metadata_name = evaluation_metadata(content, folder)
        if content.has_annotations:
            round_trip(MetadataCatalog.get(metadata_name).json_file, masks)
            evaluate(metadata_name, content.records, folder, masks)
        forget(metadata_name)
    forget(name)


def forget(name: str) -> None:
    """Remove a data set from Detectron2's catalogs, and what was read of it."""
    for masks in (True, False):
        release_dataset(name, masks)
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)


def map_records(records: list[dict], mask_format: str | None) -> None:
    """Map dataset dicts as for training, and check the instances."""
    mapper = DatasetMapper(
        is_train=True,
        augmentations=[],
        image_format="BGR",
        use_instance_mask=mask_format is not None,
        instance_mask_format=mask_format or "polygon",
    )
    for record in records:
        if "annotations" not in record:
            continue
        [[sample]] = guard([[GuardedMapper(mapper, ImageReader())(record)]], skip_bad=False)
        instances = sample["instances"]
        assert torch.isfinite(instances.gt_boxes.tensor).all(), "boxes are not finite"
        assert (instances.gt_classes >= 0).all(), "a category id is negative"
        objects = [annotation for annotation in record["annotations"] if not annotation["iscrowd"]]
        assert len(instances) <= len(objects), "there are more instances than objects"
        if mask_format is not None and len(instances):
            size = tuple(sample["image"].shape[-2:])
            masks = instances.gt_masks
            if mask_format == "polygon":
                masks = BitMasks.from_polygon_masks(masks.polygons, *size)
            assert tuple(masks.tensor.shape[1:]) == size, "a mask has another size than its image"


def round_trip(json_file: str, masks: bool) -> None:
    """Read by pycocotools what evaluators compare with, decode the masks, and write and read it once more."""
    with open(json_file, encoding="utf-8") as file:
        json.load(file)
    coco = COCO(json_file)
    written = json.dumps(coco.dataset)
    assert json.dumps(json.loads(written)) == written
    ids = coco.getAnnIds()
    assert len(set(ids)) == len(ids) and all(type(one) is int and one > 0 for one in ids), f"ids {ids}"
    for annotation in coco.loadAnns(ids):
        assert annotation["iscrowd"] in (0, 1) and annotation["category_id"] in coco.cats
        assert math.isfinite(annotation["area"]) and annotation["area"] >= 0, f"area {annotation['area']}"
        assert len(annotation["bbox"]) == 4 and all(map(math.isfinite, annotation["bbox"]))
        if masks:
            image = coco.imgs[annotation["image_id"]]
            mask = coco.annToMask(annotation)
            assert mask.shape == (image["height"], image["width"]), "a mask has another size than its image"


def evaluate(metadata_name: str, records: list[dict], folder: str, masks: bool) -> None:
    """Evaluate one detection per image."""
    evaluator = COCOEvaluator(metadata_name, tasks=("bbox", "segm") if masks else ("bbox",), output_dir=folder)
    evaluator.reset()
    for record in records:
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes = Boxes(torch.tensor([[1.0, 1.0, 9.0, 9.0]]))
        instances.scores, instances.pred_classes = torch.tensor([0.5]), torch.tensor([0])
        if masks and record["height"] * record["width"] < 10**7:
            instances.pred_masks = torch.zeros(1, record["height"], record["width"], dtype=torch.bool)
            instances.pred_masks[:, 1:9, 1:9] = True
        evaluator.process([record], [{"instances": instances}])
    evaluator.evaluate()


def read_image_file(path: Path) -> None:
    """Read an image and its header as training does; an OSError is what loaders report or skip."""
    reader = ImageReader()
    try:
        info = reader.describe(str(path))
        image = reader(str(path), "BGR")
    except OSError as error:
        raise InputError(str(error)) from error
    assert image.shape[:2] == (info.height, info.width), f"shape {image.shape}, header {info}"
    assert image.ndim == 3 and image.dtype == np.uint8, f"shape {image.shape}, dtype {image.dtype}"


def read_checkpoint(path: Path, suffix: str) -> None:
    """Load a checkpoint into a small model."""
    renamed = path.with_suffix(suffix)
    renamed.write_bytes(path.read_bytes())
    model = _model()
    Checkpointer(model).resume_or_load(str(renamed), resume=False, must_fit=True)


def read_params(path: Path) -> None:
    """Convert the weights of the FCIS release."""
    _converter().convert_file(path, path.with_suffix(".pth"), grid_size=1, num_ratios=1)


def read_example(reader: str, path: Path) -> None:
    """Read a file by a reader, a key of ``READERS``."""
    readers: dict[str, Callable[[Path], None]] = {
        "json": read_json,
        "tiff": read_image_file,
        "image": read_image_file,
        "params": read_params,
        "pth": functools.partial(read_checkpoint, suffix=".pth"),
        "pkl": functools.partial(read_checkpoint, suffix=".pkl"),
    }
    readers[reader](path)


@functools.cache
def _converter() -> Any:
    spec = importlib.util.spec_from_file_location("converter", Path(__file__).with_name("convert_fcis_mxnet.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 3))


# --- valid files ------------------------------------------------------------------------------------------------------


def valid_json(folder: Path) -> list[bytes]:
    """Write two images; return COCO files with polygons, with RLEs, and with both."""
    (folder / "images").mkdir(exist_ok=True)
    for i in (1, 2):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 60 * i, np.uint8)).save(folder / "images" / f"{i}.png")
    images = [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (1, 2)]
    categories = [{"id": 1, "name": "a"}, {"id": 3, "name": "b"}]
    contents = []
    for forms in ((0,), (1,), (2,), (0, 1, 2)):
        annotations = [coco_annotation(i + 1, forms[i % len(forms)]) for i in range(4)]
        contents.append({"images": images, "annotations": annotations, "categories": categories})
    return [json.dumps(content).encode() for content in contents]


def coco_annotation(number: int, form: int) -> dict:
    """Return a valid annotation with polygons (form 0), a compressed (1) or an uncompressed RLE (2)."""
    x, y, width, height = 2 + 3 * number, 3 + 2 * number, 8, 6
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    (rle,) = coco_mask.frPyObjects([polygon], HEIGHT, WIDTH)
    compressed = {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}
    before, after = x * HEIGHT + y, HEIGHT - height
    counts = [before, *[height, after] * (width - 1), height]
    counts.append(HEIGHT * WIDTH - sum(counts))
    return {
        "id": number,
        "image_id": 1 + number % 2,
        "category_id": (1, 3)[number // 2 % 2],
        "iscrowd": 0,
        "area": width * height,
        "bbox": [x, y, width, height],
        "segmentation": ([polygon], compressed, {"size": [HEIGHT, WIDTH], "counts": counts})[form],
    }


def valid_tiff(_: Path) -> list[bytes]:
    """Return TIFF files of several depths, compressions and numbers of pages."""
    gray = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 251).astype(np.uint8)
    files = []
    for mode, options in (
        (gray, {}),
        (gray.astype(np.uint16) * 200, {"compression": "tiff_lzw"}),
        (gray.astype(np.float32) / 255, {"compression": "tiff_deflate"}),
        (np.stack([gray] * 3, -1), {"compression": "packbits"}),
    ):
        files.append(_saved(Image.fromarray(mode), "tiff", **options))
    pages = [Image.fromarray(gray), Image.fromarray(255 - gray)]
    return [*files, _saved(pages[0], "tiff", save_all=True, append_images=pages[1:])]


def valid_image(_: Path) -> list[bytes]:
    """Return PNG, JPEG, GIF, BMP and WebP files."""
    generator = np.random.default_rng(0)
    rgb = Image.fromarray(generator.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    exif = rgb.getexif()
    exif[0x0112] = 6
    files = [_saved(rgb.convert(mode), "png") for mode in ("RGB", "L", "P", "RGBA", "LA", "1")]
    files.append(_saved(Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)), "png"))
    return [*files, _saved(rgb, "jpeg", exif=exif), *[_saved(rgb, form) for form in ("gif", "bmp", "webp")]]


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def valid_params(_: Path) -> list[bytes]:
    """Return a `.params` file of the smallest FCIS that can be converted: ResNet-50, one channel, one position."""
    converter = _converter()
    outputs = {"fcis_cls_seg": 4, "fcis_bbox": 8, "rpn_cls_score": 2, "rpn_bbox_pred": 4}
    parts, names = [], []
    for conv, tensors in converter.layer_names(50).items():
        size = outputs.get(conv, 1)
        for i, name in enumerate(tensors):
            shape = (size, 3 if conv == "conv1" else 1, 1, 1) if i == 0 else (size,)
            parts.append(struct.pack(f"<Ii I{len(shape)}q 3i", 0xF993FAC9, 0, len(shape), *shape, 1, 0, 0))
            parts.append(np.full(shape, 0.5, "<f4").tobytes())
            names.append(name.encode())
    table = b"".join(struct.pack("<Q", len(name)) + name for name in names)
    count = struct.pack("<Q", len(names))
    return [struct.pack("<QQ", 0x112, 0) + count + b"".join(parts) + count + table]


def valid_pth(_: Path) -> list[bytes]:
    """Return checkpoints as ``torch.save`` writes them, in the new and in the old format."""
    state = _model().state_dict()
    files = []
    for content, options in (
        ({"model": state, "iteration": 5}, {}),
        ({"model": state}, {"_use_new_zipfile_serialization": False}),
    ):
        stream = io.BytesIO()
        torch.save(content, stream, **options)
        files.append(stream.getvalue())
    return files


def valid_pkl(_: Path) -> list[bytes]:
    """Return a checkpoint of arrays, as Detectron2's model zoo has."""
    arrays = {name: value.numpy() for name, value in _model().state_dict().items()}
    return [pickle.dumps({"model": arrays, "__author__": "fuzz"}, protocol=protocol) for protocol in (2, 4)]


READERS: dict[str, Callable[[Path], list[bytes]]] = {
    "json": valid_json,
    "tiff": valid_tiff,
    "image": valid_image,
    "params": valid_params,
    "pth": valid_pth,
    "pkl": valid_pkl,
}


# --- breaking a file --------------------------------------------------------------------------------------------------


def break_bytes(data: bytes, generator: random.Random, others: list[bytes]) -> bytes:
    """Flip, cut, copy and replace parts of a file."""
    content = bytearray(data)
    for _ in range(generator.choice((1, 1, 1, 2, 4, 16))):
        if not content:
            break
        at = generator.randrange(len(content))
        length = min(generator.choice((1, 2, 4, 8, 64)), len(content) - at)
        way = generator.randrange(7)
        if way == 0:
            content[at] ^= 1 << generator.randrange(8)
        elif way == 1:
            content[at : at + length] = generator.randbytes(length)
        elif way == 2:
            del content[generator.choice((at, at + length)) :]
        elif way == 3:
            del content[at : at + length]
        elif way == 4:
            other = generator.choice(others)
            start = generator.randrange(len(other))
            content[at : at + length] = other[start : start + generator.choice((1, 8, 64, 512))]
        elif way == 5:
            number = generator.choice((0, 1, 0x7F, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63))
            size = generator.choice((1, 2, 4, 8))
            order = generator.choice(("little", "big"))
            content[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, order)
        else:
            content[at : at + length] = bytes([generator.choice((0, 255, 32, 48))]) * length
    return bytes(content)


def break_json(data: bytes, generator: random.Random) -> bytes:
    """Replace, remove or repeat values anywhere in a JSON file."""
    content = json.loads(data)
    for _ in range(generator.choice((1, 1, 2, 3, 6))):
        places = list(_places(content))
        if not places:
            break
        holder, key = generator.choice(places)
        way = generator.randrange(10)
        if way == 0:
            del holder[key]
        elif way == 1 and isinstance(holder, list):
            holder.insert(key, holder[generator.randrange(len(holder))])
        elif way == 2 and isinstance(holder[key], str):
            text = holder[key]
            holder[key] = text[: generator.randrange(len(text) + 1)] + generator.choice(("", " ", "%20", "0", "\\"))
        elif way == 3 and isinstance(holder[key], (int, float)) and abs(holder[key]) < 1e9:
            holder[key] *= generator.choice((-1, 0.5, 1.5, 10, 1000))
        else:
            holder[key] = json.loads(json.dumps(generator.choice(ODD_VALUES)))
    return json.dumps(content).encode()


def _places(value: Any) -> Any:
    """Yield (dict or list, key or index) of all values below ``value``."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])
