"""A trained model in SAHI."""

from __future__ import annotations

from tellapart import Predictor

import numpy as np
import pytest

sahi_predict = pytest.importorskip("sahi.predict")


def test_sahi_finds_what_the_predictor_finds(run_folder):
    from tellapart.inference.sahi import TellapartDetectionModel

    folder = run_folder("mask_rcnn") / "output"
    model = TellapartDetectionModel(str(folder), confidence_threshold=0.3)
    image = np.random.default_rng(0).integers(0, 255, (60, 70, 3), np.uint8)
    expected = Predictor(folder, threshold=0.3)(image[..., ::-1])
    with_pixels = expected.pred_masks.flatten(1).any(1)
    result = sahi_predict.get_prediction(image, model)
    found = sorted((p.score.value, p.bbox.to_xyxy()) for p in result.object_prediction_list)
    assert len(found) == int(with_pixels.sum()) > 0
    assert [score for score, _ in found] == pytest.approx(sorted(expected.scores[with_pixels].tolist()))
    sliced = sahi_predict.get_sliced_prediction(
        np.tile(image, (2, 2, 1)), model, slice_height=60, slice_width=70, overlap_height_ratio=0.2, verbose=0
    )
    assert len(sliced.object_prediction_list) > 0
    assert all(one.bbox.maxx <= 140 and one.bbox.maxy <= 120 for one in sliced.object_prediction_list)
