"""Images of any bit depth, channels and pages; 8-bit ones exactly as Detectron2 reads them."""

import logging
import pickle

import tellapart
from tellapart.data import image_reading
from tellapart.data.image_reading import ImageReader
from tellapart.data.mapper import ResizeAnyImage
from tellapart.data.orientation import apply_orientation
from tellapart.data.pixel_scaling import scale_pixels
from tellapart.data.reading_options import ReadingOptions
from tellapart.data.tiff_check import check_pages
from tellapart.errors import InputError

import cv2
import numpy as np
import pytest
import tifffile
from detectron2.config import get_cfg
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from PIL import Image

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (9, 14), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (9, 14, 3), dtype=np.uint8)
DEEP = (GRAY.astype(np.uint16) << 4) + 3  # 12 bits


def reader(**options):
    return ImageReader(ReadingOptions(**options))


@pytest.fixture(autouse=True)
def nothing_logged():
    image_reading._logged.clear()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "1"])
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "bmp", "gif"])
@pytest.mark.parametrize("format", ["BGR", "RGB", "L", None])
def test_8_bit_images_are_what_detectron2_reads(tmp_path, mode, ending, format):
    image = Image.fromarray(COLOR).convert(mode)
    path = str(tmp_path / f"image.{ending}")
    try:
        image.save(path)
    except (OSError, ValueError):
        pytest.skip(f"{ending} files cannot have the mode {mode}")
    expected = utils.read_image(path, format)
    read = reader()(path, format)
    assert read.dtype == expected.dtype and np.array_equal(read, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_exif_is_applied_once_or_ignored(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = str(tmp_path / f"image.{ending}")
    Image.fromarray(COLOR).save(path, exif=exif)
    applied, ignored = reader()(path, "RGB"), reader(exif="ignore")(path, "RGB")
    if ending != "tif":  # of which the real Detectron2 applies the orientation a second time, after Pillow
        assert np.array_equal(applied, utils.read_image(path, "RGB"))
    assert ignored.shape == COLOR.shape
    assert np.array_equal(apply_orientation(ignored, orientation), applied)
    info = reader().describe(path)
    assert (info.height, info.width) == applied.shape[:2] and info.orientation == orientation
    assert (info.raw_height, info.raw_width) == COLOR.shape[:2]


def test_deep_images_with_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(DEEP).save(tmp_path / "image.png", exif=exif)
    assert reader()(str(tmp_path / "image.png"), "BGR").shape == (14, 9, 3)


def write_png_16(path):
    cv2.imwrite(path, DEEP)


def write_color_png_16(path):
    cv2.imwrite(path, (COLOR[..., ::-1].astype(np.uint16)) * 257)


WRITERS = {
    "gray 16-bit PNG": ("png", write_png_16),
    "uint16": ("tif", lambda path: tifffile.imwrite(path, DEEP)),
    "int16": ("tif", lambda path: tifffile.imwrite(path, DEEP.astype(np.int16) - 1000)),
    "uint32": ("tif", lambda path: tifffile.imwrite(path, DEEP.astype(np.uint32))),
    "float32": ("tif", lambda path: tifffile.imwrite(path, DEEP.astype(np.float32) / 4095)),
    "float64": ("tif", lambda path: tifffile.imwrite(path, DEEP.astype(np.float64) * 1e6)),
    "float16": ("tif", lambda path: tifffile.imwrite(path, (DEEP / 4095).astype(np.float16))),
    "compressed": ("tif", lambda path: tifffile.imwrite(path, DEEP, compression="lzw")),
    "big": ("tif", lambda path: tifffile.imwrite(path, DEEP, bigtiff=True)),
    "big-endian": ("tif", lambda path: tifffile.imwrite(path, DEEP, byteorder=">")),
    "Pillow's I": ("tif", lambda path: Image.fromarray(DEEP.astype(np.int32)).save(path)),
    "Pillow's F": ("tif", lambda path: Image.fromarray(DEEP.astype(np.float32)).save(path)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_deep_images_are_scaled_by_percentiles(tmp_path, name, caplog):
    ending, write = WRITERS[name]
    path = str(tmp_path / f"image.{ending}")
    write(path)
    with caplog.at_level(logging.INFO):
        read = reader()(path, "BGR")
        reader()(path, "BGR")
    expected = scale_pixels(DEEP, "percentile", False)
    assert read.dtype == np.uint8 and read.shape == (9, 14, 3)
    assert np.abs(read[..., 0].astype(int) - expected).max() <= 1 and (read[..., 0] == read[..., 2]).all()
    assert read.min() == 0 and read.max() == 255
    assert caplog.text.count("scaled by the 0.1 and 99.9 percentiles") == 1


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_colors(tmp_path, ending):
    """Pillow reads such a file as 8-bit colors, by cutting off the lower byte."""
    path = str(tmp_path / f"image.{ending}")
    if ending == "png":
        write_color_png_16(path)
    else:
        tifffile.imwrite(path, COLOR.astype(np.uint16) * 257, photometric="rgb")
    assert np.array_equal(reader(scaling="full_range")(path, "RGB"), COLOR)
    assert np.array_equal(reader(scaling="full_range")(path, "BGR"), COLOR[..., ::-1])
    assert np.array_equal(reader(scaling=(0.0, 65535.0))(path, "RGB"), COLOR)
    assert reader().describe(path).bit_depth == 16


@pytest.mark.parametrize("scaling, expected", [
    ("full_range", [0, 128, 255]), ((0.0, 100.0), [0, 255, 255]), ((-65535.0, 65535.0), [128, 191, 255]),
    ("none", [0, 32768, 65535]), ("percentile", [0, 128, 255]),
])  # fmt: skip
def test_scalings(tmp_path, scaling, expected):
    path = str(tmp_path / "image.tif")
    tifffile.imwrite(path, np.array([[0, 32768, 65535]], np.uint16))
    read = reader(scaling=scaling)(path, "L")
    assert read[0, :, 0].tolist() == pytest.approx(expected, abs=1)
    assert read.dtype == (np.float32 if scaling == "none" else np.uint8)


@pytest.mark.parametrize("pixels", [np.zeros((4, 5), np.uint16), np.full((4, 5), np.nan), np.full((4, 5), np.inf)])
def test_constant_and_not_finite_images(pixels):
    assert not scale_pixels(pixels, "auto", False)[np.isfinite(pixels)].any()


def test_not_finite_pixels_do_not_disturb_the_others():
    pixels = np.linspace(0, 1, 2000).reshape(40, 50)
    expected = scale_pixels(pixels, "auto", False)
    pixels[0, 0], pixels[3, 3] = np.nan, np.inf
    scaled = scale_pixels(pixels, "auto", False)
    assert scaled[0, 0] == 0 and scaled[3, 3] == 255 and np.abs(scaled[5:].astype(int) - expected[5:]).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_of_0_and_1(tmp_path, mode, caplog):
    path = str(tmp_path / "image.png")
    Image.fromarray((GRAY > 128).astype(np.uint8)).convert(mode).save(path)
    with caplog.at_level(logging.INFO):
        assert np.unique(reader()(path, "BGR")).tolist() == [0, 255]
    assert "only 0 and 1" in caplog.text
    assert np.unique(reader(scaling="none")(path, "BGR")).tolist() == [0, 1]


def test_pages(tmp_path, caplog):
    path, stack = str(tmp_path / "stack.tif"), RNG.integers(0, 4000, (4, 9, 14), dtype=np.uint16)
    tifffile.imwrite(path, stack, photometric="minisblack")
    with caplog.at_level(logging.WARNING):
        first = reader(scaling="none")(path, "L")
        reader(scaling="none")(path, "L")
    assert np.array_equal(first[..., 0], stack[0]) and caplog.text.count("has 4 pages") == 1
    assert np.array_equal(reader(scaling="none", pages="max")(path, "L")[..., 0], stack.max(0))
    channels = reader(scaling="none", pages="channels", num_channels=4)(path, "BGR")
    assert np.array_equal(channels, stack.transpose(1, 2, 0))
    with pytest.raises(InputError, match=r"stack\.tif has 4 channels, and MODEL\.PIXEL_MEAN has 3 values"):
        reader(pages="channels")(path, "BGR")
    with pytest.raises(InputError, match=r"has 1 channel, and MODEL\.PIXEL_MEAN has 4 values"):
        reader(num_channels=4)(path, "BGR")
    assert reader().describe(path).num_pages == 4


@pytest.mark.parametrize("axes, shape", [("CYX", (2, 9, 14)), ("ZCYX", (3, 2, 9, 14)), ("TZCYX", (2, 3, 2, 9, 14))])
def test_hyperstacks_of_imagej(tmp_path, axes, shape):
    path, stack = str(tmp_path / "stack.tif"), RNG.integers(0, 4000, shape, dtype=np.uint16)
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": axes})
    flat = stack.reshape(-1, 9, 14)
    read = reader(scaling="none", pages="channels", num_channels=len(flat))(path, "BGR")
    assert np.array_equal(read, flat.transpose(1, 2, 0))
    assert np.array_equal(reader(scaling="none")(path, "L")[..., 0], flat[0])


def test_8_bit_stacks_and_gif(tmp_path):
    stack = RNG.integers(2, 255, (3, 9, 14), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    frames = [Image.fromarray(frame) for frame in stack]
    frames[0].save(tmp_path / "stack.gif", save_all=True, append_images=frames[1:])
    for name in ("stack.tif", "stack.gif"):
        path = str(tmp_path / name)
        assert np.array_equal(reader()(path, "L"), utils.read_image(path, "L"))
        assert np.array_equal(reader(pages="max")(path, "L")[..., 0], stack.max(0))


def test_channels_of_other_models(tmp_path):
    Image.fromarray(COLOR).convert("RGBA").save(tmp_path / "rgba.png")
    read = reader(num_channels=4)(str(tmp_path / "rgba.png"), "BGR")
    assert np.array_equal(read[..., :3], COLOR)  # no swap of colors, because the channels are not BGR
    assert reader(num_channels=1)(str(tmp_path / "rgba.png"), "BGR").shape == (9, 14, 1)
    with pytest.raises(InputError, match=r"rgba\.png has 4 channels, and MODEL\.PIXEL_MEAN has 2 values"):
        reader(num_channels=2)(str(tmp_path / "rgba.png"), "BGR")
    two = RNG.integers(0, 4000, (9, 14, 2), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "two.tif", two.transpose(2, 0, 1), photometric="minisblack", metadata={"axes": "CYX"})
    read = reader(num_channels=2, pages="channels")(str(tmp_path / "two.tif"), "BGR")
    assert [read[..., i].max() for i in range(2)] == [255, 255]  # each has its own percentiles
    assert reader(num_channels=2, pages="channels").picture(str(tmp_path / "two.tif")).shape == (9, 14, 3)


def test_limit_of_pixels(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "image.png")
    tifffile.imwrite(tmp_path / "image.tif", DEEP)
    for name in ("image.png", "image.tif"):
        with pytest.raises(InputError, match=rf"{name} has 14 x 9 = 126 pixels, and INPUT.MAX_PIXELS is 125"):
            reader(max_pixels=125)(str(tmp_path / name))
        reader(max_pixels=126)(str(tmp_path / name))
    assert Image.MAX_IMAGE_PIXELS == 89478485  # Pillow's own limit is as before


def test_a_larger_limit_than_pillows(tmp_path):
    Image.new("1", (20000, 10000)).save(tmp_path / "large.png")
    assert reader(max_pixels=10**9).describe(str(tmp_path / "large.png")).width == 20000
    with pytest.raises(InputError, match="MAX_PIXELS is 178956970"):
        reader().describe(str(tmp_path / "large.png"))


@pytest.mark.parametrize(
    "content", [b"", b"text", b"II*\0broken", b"\x89PNG\r\n\x1a\n" + bytes(16) + b"\x10" + bytes(9)]
)
def test_broken_files(tmp_path, content):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    for read in (reader(), reader().describe):
        with pytest.raises(OSError, match=r"image\.png"):
            read(str(path))


def test_truncated_tiff(tmp_path):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, RNG.integers(0, 4000, (90, 140), dtype=np.uint16), compression="lzw")
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(OSError, match=r"image\.tif"):
        reader()(str(path))


def config(*opts):
    cfg = get_cfg()
    tellapart.add_config(cfg)
    cfg.merge_from_list(list(opts))
    return cfg


def test_keys(tmp_path):
    assert ReadingOptions.from_cfg(config()) == ReadingOptions()
    options = ReadingOptions.from_cfg(config("INPUT.SCALING", "[10, 4000]", "INPUT.EXIF", "ignore"))
    assert options.scaling == (10.0, 4000.0) and options.exif == "ignore"
    assert ReadingOptions.from_cfg(config("INPUT.SCALING", "(10, 4000)")).scaling == (10.0, 4000.0)
    assert ReadingOptions.from_cfg(config("INPUT.SCALING", "percentile")).scaling == "percentile"
    (tmp_path / "a.yaml").write_text("INPUT:\n  SCALING: [0.5, 1]\n")
    cfg = config()
    cfg.merge_from_file(str(tmp_path / "a.yaml"))
    assert ReadingOptions.from_cfg(cfg).scaling == (0.5, 1.0)
    (tmp_path / "b.yaml").write_text(cfg.dump())
    again = config()
    again.merge_from_file(str(tmp_path / "b.yaml"))
    assert ReadingOptions.from_cfg(again).scaling == (0.5, 1.0)


@pytest.mark.parametrize("opts, message", [
    (("INPUT.SCALING", "max"), r"INPUT\.SCALING is 'max', expected one of auto, percentile"),
    (("INPUT.SCALING", "[5, 5]"), r"INPUT\.SCALING is \[5, 5\], expected \[low, high\]"),
    (("INPUT.SCALING", "[5]"), r"expected \[low, high\]"), (("INPUT.SCALING", "3"), r"INPUT\.SCALING is 3"),
    (("INPUT.PAGES", "all"), r"INPUT\.PAGES is 'all', expected first or channels or max"),
    (("INPUT.EXIF", "no"), r"INPUT\.EXIF is 'no', expected apply or ignore"),
    (("INPUT.MAX_PIXELS", "0"), r"INPUT\.MAX_PIXELS is 0"),
])  # fmt: skip
def test_wrong_keys(opts, message):
    with pytest.raises(InputError, match=message):
        ReadingOptions.from_cfg(config(*opts))


def test_readers_are_sent_to_workers():
    assert pickle.loads(pickle.dumps(reader(scaling=(1.0, 2.0)))).options.scaling == (1.0, 2.0)


@pytest.mark.parametrize("shape", [(2, 3000), (3000, 2), (1, 1), (60, 40)])
def test_at_least_one_pixel(shape):
    image = np.zeros((*shape, 3), np.uint8)
    plain = T.ResizeShortestEdge([64, 80], 120, "choice")
    np.random.seed(3)
    resized = ResizeAnyImage(plain).get_transform(image).apply_image(image)
    assert min(resized.shape[:2]) >= 1 and max(resized.shape[:2]) <= 120
    if min(shape) > 2:  # the same random draws and the same result as Detectron2's
        np.random.seed(3)
        assert resized.shape == plain.get_transform(image).apply_image(image).shape


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_pages_of_tiffs_are_checked(tmp_path, big, byteorder):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((3, 8, 8), np.uint16), bigtiff=big, byteorder=byteorder, photometric="minisblack")
    with path.open("rb") as file:
        check_pages(file)
        assert file.tell() == 0
    data = bytearray(path.read_bytes())
    first = 16 if big else 8
    data[first : first + 2] = (b"\xff\x0f" if byteorder == "<" else b"\0\0") if not big or byteorder == "<" else b"\0\0"
    if byteorder == ">":
        end = first + (8 if big else 2)
        data[end - 2 : end] = b"\x0f\xff"
    path.write_bytes(data)
    with pytest.raises(OSError, match="pages overlap or reach over the end"):
        reader()(str(path), "BGR")


def test_truncated_jpegs_are_refused(tmp_path):
    """An error of the decoder is not hidden by the EXIF orientation, which is read after it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOR.repeat(20, 0).repeat(20, 1)).save(tmp_path / "a.jpg", exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(OSError, match="cannot read the image"):
        reader()(str(tmp_path / "a.jpg"), "BGR")
