"""Image files: bit depths, channels, formats, pages, orientations, sizes, and files that are no images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from ..case import Case, Refused, Trains, edited, refused, trains
from ..coco_set import HEIGHT, WIDTH, Content, base_content, pixels, put_image, write_json, write_set
from ..run import ALL_MODELS

MEAN, STD = "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"
EXIF_ORIENTATION = 0x0112


def gray(image_id: int) -> np.ndarray:
    """Return an image of the set as uint8 (64, 96)."""
    return pixels(image_id).max(axis=2)


def files(save: Callable[[Path, int], None], extension: str = "png", only: tuple[int, ...] = (1, 2, 3, 4)) -> Callable:
    """Write the images ``only`` by ``save(path, image id)`` instead of as 8-bit RGB PNG."""

    def build(folder: Path) -> None:
        def rename(content: Content) -> None:
            for image in content["images"]:
                if image["id"] in only:
                    image["file_name"] = f"{image['id']}.{extension}"

        write_set(folder, rename)
        for i in only:
            (folder / "images" / f"{i}.png").unlink()
            save(folder / "images" / f"{i}.{extension}", i)

    return build


def pillow(convert: Callable[[np.ndarray], np.ndarray | Image.Image], extension: str = "png", **options) -> Callable:
    """Write the images by Pillow after ``convert``, which gets uint8 (64, 96, 3)."""

    def save(path: Path, image_id: int) -> None:
        image = convert(pixels(image_id))
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)

    return files(save, extension)


def mode(name: str, extension: str = "png", **options) -> Callable:
    return pillow(lambda array: Image.fromarray(array).convert(name), extension, **options)


def tiff(convert: Callable[[int], np.ndarray], **options) -> Callable:
    """Write the images by tifffile; ``convert`` gets the image id."""
    return files(lambda path, i: tifffile.imwrite(path, convert(i), **options), "tif")


def data(content: bytes, extension: str = "png") -> Callable:
    """Write ``content`` as the fourth image."""
    return files(lambda path, _: path.write_bytes(content), extension, only=(4,))


def cut(path: Path, image_id: int) -> None:
    Image.fromarray(pixels(image_id)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def channels(count: int) -> Callable[[int], np.ndarray]:
    return lambda i: np.stack([gray(i)] * count, axis=-1)


def pages(count: int) -> Callable[[int], np.ndarray]:
    return lambda i: np.stack([gray(i)] * count)


GRAY_PAGES = {"photometric": "minisblack"}


def with_exif(orientation: int, transpose: Image.Transpose | None = None) -> Callable:
    """Write JPEGs with an EXIF orientation; ``transpose`` changes the stored pixels first."""

    def save(path: Path, image_id: int) -> None:
        image = Image.fromarray(pixels(image_id))
        if transpose is not None:
            image = image.transpose(transpose)
        exif = image.getexif()
        exif[EXIF_ORIENTATION] = orientation
        image.save(path, exif=exif, quality=95)

    return files(save, "jpg")


def sized(width: int, height: int, count: int = 2) -> Callable[[Path], None]:
    """Write ``count`` images of one size, each with one object that fills it."""

    def build(folder: Path) -> None:
        (folder / "images").mkdir()
        content = base_content()
        box = [0, 0, width, height]
        polygon = [0, 0, width, 0, width, height, 0, height]
        content["images"] = [
            {"id": i, "file_name": f"{i}.png", "width": width, "height": height} for i in range(1, count + 1)
        ]
        content["annotations"] = [
            {"id": i, "image_id": i, "category_id": 1 + i % 2, "iscrowd": 0, "bbox": box, "area": width * height,
             "segmentation": [polygon]}
            for i in range(1, count + 1)
        ]  # fmt: skip
        generator = np.random.default_rng(0)
        for i in range(1, count + 1):
            picture = generator.integers(0, 255, (height, width, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / "images" / f"{i}.png")
        write_json(folder, content)

    return build


def per_channel(count: int) -> tuple[str, ...]:
    return (MEAN, str([127.5] * count), STD, str([64.0] * count))


def scaled(objects: int, *says: str) -> Trains:
    return trains(objects, *says)


FLOAT = np.float32
SCALING = r"INPUT\.SCALING|percentile"
WITH_NAN = np.where(np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 50 == 0, np.nan, 1.0)
PLAIN = trains(12)

CASES = [
    # --- bit depths ---
    Case("png_16_bit", pillow(lambda a: a.max(2).astype(np.uint16) * 257), scaled(12, SCALING), models=ALL_MODELS),
    Case("png_12_bit_in_16", pillow(lambda a: a.max(2).astype(np.uint16) * 16), scaled(12, SCALING)),
    Case("png_16_bit_low_contrast", pillow(lambda a: a.max(2).astype(np.uint16) + 1000), scaled(12, SCALING)),
    Case("png_16_bit_full_range", pillow(lambda a: a.max(2).astype(np.uint16) * 257), PLAIN,
         options=("INPUT.SCALING", "full_range")),
    Case("png_16_bit_range", pillow(lambda a: a.max(2).astype(np.uint16) * 16), PLAIN,
         options=("INPUT.SCALING", "[0, 4095]")),
    Case("png_16_bit_eval_only", pillow(lambda a: a.max(2).astype(np.uint16) * 257), scaled(12, SCALING),
         flags=("--eval-only",), weights=True),
    Case("png_16_bit_constant", pillow(lambda a: np.full(a.shape[:2], 500, np.uint16)), scaled(12)),
    Case("tiff_16_bit_rgb", tiff(lambda i: pixels(i).astype(np.uint16) * 257, photometric="rgb"), scaled(12, SCALING)),
    Case("tiff_8_bit_rgb", tiff(pixels, photometric="rgb"), PLAIN),
    Case("tiff_8_bit_gray", tiff(gray), PLAIN),
    Case("tiff_int_16_negative", tiff(lambda i: gray(i).astype(np.int16) - 128), scaled(12, SCALING)),
    Case("tiff_32_bit", tiff(lambda i: gray(i).astype(np.uint32) * 1000), scaled(12, SCALING)),
    Case("tiff_int_64", tiff(lambda i: gray(i).astype(np.int64)), Trains(None)),
    Case("tiff_float_0_to_1", tiff(lambda i: gray(i).astype(FLOAT) / 255), scaled(12, SCALING), models=ALL_MODELS),
    Case("tiff_float_negative", tiff(lambda i: gray(i).astype(FLOAT) - 100), scaled(12, SCALING)),
    Case("tiff_float_nan", tiff(lambda i: (gray(i) * WITH_NAN).astype(FLOAT)), Trains(12)),
    Case("tiff_float_all_nan", tiff(lambda i: np.full((HEIGHT, WIDTH), np.nan, FLOAT)),
         refused(r"\d\.tif", "finite|nan")),
    Case("tiff_float_infinite", tiff(lambda i: np.where(gray(i) > 200, np.inf, gray(i)).astype(FLOAT)), Trains(12)),
    Case("tiff_float_64", tiff(lambda i: gray(i) / 255), scaled(12, SCALING)),
    Case("tiff_float_16", tiff(lambda i: (gray(i) / 255).astype(np.float16)), scaled(12, SCALING)),
    Case("tiff_bool", tiff(lambda i: gray(i) > 100), Trains(12)),
    Case("tiff_lzw", tiff(pixels, photometric="rgb", compression="lzw"), PLAIN),
    Case("tiff_zstd", tiff(pixels, photometric="rgb", compression="zstd"), PLAIN),
    Case("tiff_tiled", tiff(pixels, photometric="rgb", tile=(16, 16)), PLAIN),
    Case("tiff_big_endian", tiff(lambda i: gray(i).astype(">u2") * 257, byteorder=">"), scaled(12, SCALING)),
    Case("tiff_bigtiff", tiff(pixels, photometric="rgb", bigtiff=True), PLAIN),
    Case("tiff_planar",
         tiff(lambda i: np.moveaxis(pixels(i), 2, 0), photometric="rgb", planarconfig="separate"), PLAIN),
    Case("tiff_complex", tiff(lambda i: gray(i).astype(np.complex64)), refused(r"\d\.tif", "complex")),
    Case("png_1_bit", mode("1"), scaled(12)),
    Case("png_0_and_1", pillow(lambda a: (a.max(2) > 100).astype(np.uint8)), scaled(12, r"0 (and|to|or) 1|SCALING")),
    Case("png_0_and_255", pillow(lambda a: (a.max(2) > 100) * np.uint8(255)), PLAIN),
    Case("png_all_black", pillow(lambda a: a * 0), Trains(12)),
    # --- channels ---
    Case("png_gray", mode("L"), PLAIN),
    Case("png_palette", mode("P"), PLAIN),
    Case("png_palette_transparent", mode("P", transparency=0), PLAIN),
    Case("png_rgba", mode("RGBA"), PLAIN),
    Case("png_gray_alpha", mode("LA"), PLAIN),
    Case("jpeg_cmyk", mode("CMYK", "jpg"), PLAIN),
    Case("jpeg_gray", mode("L", "jpg"), PLAIN),
    Case("tiff_2_channels", tiff(channels(2), planarconfig="contig"), PLAIN, options=per_channel(2)),
    Case("tiff_4_channels", tiff(channels(4), planarconfig="contig"), PLAIN, options=per_channel(4),
         models=ALL_MODELS),
    Case("tiff_5_channels", tiff(channels(5), planarconfig="contig"), PLAIN, options=per_channel(5)),
    Case("tiff_5_channels_of_3", tiff(channels(5), planarconfig="contig"), refused(r"1\.tif", "PIXEL_MEAN")),
    Case("tiff_1_channel_model", tiff(gray), PLAIN, options=per_channel(1)),
    # --- pages ---
    Case("tiff_pages", tiff(pages(3), **GRAY_PAGES), trains(12, "page"), models=ALL_MODELS),
    Case("tiff_pages_max", tiff(pages(3), **GRAY_PAGES), PLAIN, options=("INPUT.PAGES", "max")),
    Case("tiff_pages_as_channels", tiff(pages(4), **GRAY_PAGES), PLAIN, options=("INPUT.PAGES", "channels",
         *per_channel(4))),
    Case("tiff_pages_as_3_channels", tiff(pages(3), **GRAY_PAGES), PLAIN, options=("INPUT.PAGES", "channels")),
    Case("tiff_pages_more_than_channels", tiff(pages(5), **GRAY_PAGES), refused(r"1\.tif", "PIXEL_MEAN|page"),
         options=("INPUT.PAGES", "channels")),
    Case("tiff_imagej_stack", files(lambda path, i: tifffile.imwrite(
         path, pages(3)(i), imagej=True, metadata={"axes": "ZYX"}), "tif"), trains(12, "page")),
    Case("gif", mode("P", "gif"), PLAIN),
    Case("gif_animated", pillow(lambda a: Image.fromarray(a), "gif", save_all=True,
         append_images=[Image.new("RGB", (WIDTH, HEIGHT))]), trains(12, "page|frame")),
    # --- formats ---
    Case("jpeg", mode("RGB", "jpg", quality=95), PLAIN),
    Case("jpeg_named_png", files(lambda path, i: Image.fromarray(pixels(i)).save(path, "jpeg")), PLAIN),
    Case("png_named_tif", files(lambda path, i: Image.fromarray(pixels(i)).save(path, "png"), "tif"), PLAIN),
    Case("webp", mode("RGB", "webp", lossless=True), PLAIN),
    Case("bmp", mode("RGB", "bmp"), PLAIN),
    Case("extension_in_capitals", mode("RGB", "PNG", format="png"), PLAIN),
    # --- not an image ---
    Case("png_cut", files(cut, only=(4,)), refused(r"4\.png")),
    Case("png_cut_skipped", files(cut, only=(4,)), Trains(None, evaluates=False),
         options=("DATALOADER.SKIP_BAD_IMAGES", "True", "DATASETS.TEST", "()")),
    Case("png_empty", data(b""), refused(r"4\.png")),
    Case("png_empty_process", data(b""), refused(r"4\.png"), process=True),
    Case("png_is_text", data(b"<html>404 not found</html>"), refused(r"4\.png")),
    Case("png_is_git_lfs", data(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n"),
         refused(r"4\.png")),
    Case("tif_is_text", data(b"II*\0garbage", "tif"), refused(r"4\.tif")),
    Case("svg", data(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg"), refused(r"4\.svg")),
    # --- orientation ---
    Case("exif_180_annotations_raw", with_exif(3), trains(12, "EXIF"), models=("fcis", "coloring")),
    Case("exif_180_ignored", with_exif(3), PLAIN, options=("INPUT.EXIF", "ignore")),
    Case("exif_180_annotations_displayed", with_exif(3, Image.Transpose.ROTATE_180), PLAIN),
    Case("exif_90_annotations_displayed", with_exif(6, Image.Transpose.ROTATE_90), PLAIN),
    Case("exif_90_annotations_raw", with_exif(6), refused("EXIF")),
    Case("exif_90_ignored", with_exif(6), PLAIN, options=("INPUT.EXIF", "ignore")),
    Case("exif_1", with_exif(1), PLAIN),
    Case("exif_invalid", with_exif(77), PLAIN),
    # --- sizes ---
    Case("image_3000_x_2", sized(3000, 2), Trains(2), models=tuple(name for name in ALL_MODELS if name != "coloring")),
    Case("image_3000_x_2_coloring", sized(3000, 2), Trains(2, evaluates=False), models=("coloring",)),
    Case("image_2_x_3000", sized(2, 3000), Trains(2)),
    Case("image_1_x_1", sized(1, 1), Trains(2)),
    Case("image_5000_x_1", sized(5000, 1), Trains(2)),
    Case("image_1500_x_900", sized(1500, 900), Trains(2)),
    Case("image_above_max_pixels", edited(), Refused((r"INPUT\.MAX_PIXELS", r"png")),
         options=("INPUT.MAX_PIXELS", "1000")),
    Case("image_at_max_pixels", edited(), PLAIN, options=("INPUT.MAX_PIXELS", "6144")),
    Case("image_size_not_of_json", edited(put_image("height", 65, 1)), refused(r"2\.png", "65")),
]  # fmt: skip
