"""Pictures of instances, in images, a video or from a camera; the flags are those of Detectron2's demo."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..errors import InputError
from ..files import atomic_path
from .image_files import find_images, result_names
from .image_model import to_detections
from .predictor import Predictor
from .writers import draw_overlay, write_overlay

_WINDOW = "instances"
_ESCAPE = 27


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the flags of Detectron2's demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the model, or its run folder")
    parser.add_argument("--webcam", action="store_true", help="show the pictures of a camera, until Escape is pressed")
    parser.add_argument("--video-input", metavar="FILE", help="video file")
    parser.add_argument("--input", nargs="+", metavar="FILE", help="image files, patterns or folders")
    parser.add_argument("--output", metavar="PATH", help="folder for pictures, or a video file; without it, a window")
    parser.add_argument("--confidence-threshold", type=float, default=0.5, help="least score (default: %(default)s)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config options")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo.

    Raises:
        InputError: the model or an input does not exist, or the flags contradict each other.
    """
    args = argument_parser().parse_args(argv)
    if sum((bool(args.webcam), bool(args.video_input), bool(args.input))) != 1:
        raise InputError("expected exactly one of --input, --video-input and --webcam")
    files = find_images(args.input) if args.input else []
    if args.video_input and not Path(args.video_input).is_file():
        raise InputError(f"video {args.video_input} does not exist")
    predictor = Predictor(args.config_file, threshold=args.confidence_threshold, opts=args.opts)
    if files:
        _show_images(predictor, files, args.output)
    else:
        _show_frames(predictor, args.video_input, args.output)


def _show_images(predictor: Predictor, files: list[Path], output: str | None) -> None:
    failed = 0
    for path, name in zip(tqdm(files, unit="image"), result_names(files)):
        try:
            source = predictor.open(path)
        except (OSError, InputError) as error:
            print(f"error: {path} cannot be read: {error}", file=sys.stderr)
            failed += 1
            continue
        found = to_detections(predictor.predict(source))
        print(f"{path}: {len(found)} instances")
        target = Path(output) / f"{name}.png" if output else None
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_overlay(target, source, found)
        elif _show(draw_overlay(predictor.reader.picture(str(path)), 1, found), wait_ms=0):
            return
    if failed:
        sys.exit(1)


def _show_frames(predictor: Predictor, video: str | None, output: str | None) -> None:
    capture = cv2.VideoCapture(video if video else 0)
    if not capture.isOpened():
        raise InputError(f"video {video} cannot be read" if video else "no camera can be opened")
    frames = _frames(capture)
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if video else None
    pictures = (_draw(predictor, frame) for frame in tqdm(frames, unit="frame", total=total))
    if output:
        _write_video(pictures, Path(output), capture.get(cv2.CAP_PROP_FPS) or 25.0)
        return
    for picture in pictures:
        if _show(picture, wait_ms=1):
            return


def _frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        is_read, frame = capture.read()
        if not is_read:
            return
        yield frame


def _draw(predictor: Predictor, frame: np.ndarray) -> np.ndarray:
    return draw_overlay(frame.copy(), 1, to_detections(predictor(frame)))


def _write_video(pictures: Iterator[np.ndarray], path: Path, frames_per_second: float) -> None:
    path = path if path.suffix else path / "video.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        part = temporary.with_name(f"{temporary.name}{path.suffix}")  # OpenCV needs the extension of the format
        writer = None
        for picture in pictures:
            if writer is None:
                code = cv2.VideoWriter_fourcc(*("MJPG" if path.suffix.lower() == ".avi" else "mp4v"))
                writer = cv2.VideoWriter(str(part), code, frames_per_second, picture.shape[1::-1])
            writer.write(picture)
        if writer is None:
            raise InputError("the video has no frame")
        writer.release()
        part.replace(temporary)


def _show(picture: np.ndarray, wait_ms: int) -> bool:
    """Show a picture in a window; return whether Escape was pressed."""
    try:
        cv2.imshow(_WINDOW, picture)
        return cv2.waitKey(wait_ms) == _ESCAPE
    except cv2.error as error:
        raise InputError(f"no window can be opened ({error.err}): name a folder or file with --output") from error
