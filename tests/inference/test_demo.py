"""The demo: pictures and videos with the flags of Detectron2's demo."""

from __future__ import annotations

from tellapart import InputError
from tellapart.inference.demo import main

import cv2
import numpy as np
import pytest


@pytest.fixture
def flags(run_folder) -> list[str]:
    folder = run_folder("mask_rcnn") / "output"
    return ["--config-file", str(folder / "config.yaml"), "--confidence-threshold", "0.0"]


@pytest.fixture
def weights(run_folder) -> list[str]:
    return ["--opts", "MODEL.WEIGHTS", str(run_folder("mask_rcnn") / "output" / "model_final.pth")]


def test_pictures(flags, weights, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 50, 3), 90, np.uint8))
    (tmp_path / "b.png").touch()
    with pytest.raises(SystemExit) as stopped:
        main([*flags, "--input", str(tmp_path / "*.png"), "--output", str(tmp_path / "out"), *weights])
    assert stopped.value.code == 1 and "b.png cannot be read" in capsys.readouterr().err
    assert cv2.imread(str(tmp_path / "out" / "a.png")).shape == (40, 50, 3)


def test_video(flags, weights, tmp_path):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for i in range(4):
        writer.write(np.full((48, 64, 3), 40 * i, np.uint8))
    writer.release()
    main([*flags, "--video-input", str(path), "--output", str(tmp_path / "out.avi"), *weights])
    capture = cv2.VideoCapture(str(tmp_path / "out.avi"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4 and capture.read()[1].shape == (48, 64, 3)
    assert not list(tmp_path.glob("*.part*"))


def test_wrong_flags(flags, tmp_path):
    with pytest.raises(InputError, match="exactly one of"):
        main(flags)
    with pytest.raises(InputError, match="does not exist"):
        main([*flags, "--video-input", str(tmp_path / "film.avi")])
