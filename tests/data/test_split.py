"""Splits by image: every image in one part, and the same share of every category in all parts."""

from __future__ import annotations

import json

from tellapart.data.split import split_coco, stratified_parts
from tellapart.errors import InputError
from tellapart_cli import main

import numpy as np
import pytest


@pytest.mark.parametrize("fractions", [(0.8, 0.2), (0.6, 0.3, 0.1)])
def test_parts_have_their_shares(fractions):
    generator = np.random.default_rng(3)
    counts = generator.poisson([20, 3, 0.2], (200, 3)) * generator.integers(0, 4, (200, 1))
    parts = stratified_parts(counts, fractions, seed=1)
    for p, fraction in enumerate(fractions):
        assert (parts == p).sum() == round(200 * fraction)
        share = counts[parts == p].sum(0) / counts.sum(0)
        np.testing.assert_allclose(share, fraction, atol=0.05)


def test_a_random_split_is_less_even():
    """The stratification does something: the shares of a random split differ more."""
    generator = np.random.default_rng(0)
    counts = (generator.random((60, 4)) < 0.25) * generator.integers(1, 30, (60, 4))

    def worst(parts: np.ndarray) -> float:
        return float(np.abs(counts[parts == 1].sum(0) / counts.sum(0) - 0.2).max())

    random = [worst(generator.permutation(np.repeat([0, 1], [48, 12]))) for _ in range(50)]
    assert max(worst(stratified_parts(counts, (0.8, 0.2), seed)) for seed in range(5)) < np.median(random) / 2


def test_the_seed_decides():
    counts = np.ones((50, 1), np.int64)
    first, same, other = (stratified_parts(counts, (0.5, 0.5), seed) for seed in (1, 1, 2))
    assert np.array_equal(first, same) and not np.array_equal(first, other)
    assert stratified_parts(np.zeros((3, 1), np.int64), (0.9, 0.1), 0).tolist().count(1) == 1


@pytest.mark.parametrize("fractions, message", [
    ((0.8, 0.3), "expected two or more that add up to 1"), ((1.0,), "two or more"), ((1.2, -0.2), "add up to 1"),
    ((0.2,) * 5, "there are 4 images, too few for 5 parts"),
])  # fmt: skip
def test_invalid_fractions(fractions, message):
    with pytest.raises(InputError, match=message):
        split_coco({"images": [{"id": i} for i in range(4)], "annotations": []}, fractions)


def test_command(tmp_path, capsys):
    images = [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 8} for i in range(10)]
    square = {"bbox": [1, 1, 3, 3], "segmentation": [[1, 1, 4, 1, 4, 4, 1, 4]], "iscrowd": 0, "area": 9}
    annotations = [{**square, "id": i + 1, "image_id": i % 10, "category_id": 5} for i in range(20)]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 5, "name": "cell"}],
        "info": {"a": 1},
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    for image in images:
        (tmp_path / image["file_name"]).touch()
    main(["split", str(tmp_path / "all.json"), "--names", "a", "b"])
    assert "all_a.json: 8 images, 16 annotations" in capsys.readouterr().out
    parts = [json.loads((tmp_path / f"all_{name}.json").read_text()) for name in "ab"]
    assert sorted(image["id"] for part in parts for image in part["images"]) == list(range(10))
    assert all(part["categories"] == content["categories"] and part["info"] == {"a": 1} for part in parts)
    for part in parts:
        ids = {image["id"] for image in part["images"]}
        assert part["annotations"] == [one for one in annotations if one["image_id"] in ids]
