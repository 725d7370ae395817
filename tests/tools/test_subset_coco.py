"""tools/subset_coco.py: which images and annotations it keeps, and what it refuses."""

from __future__ import annotations

import json


def test_subset(run_tool, tmp_path):
    source, output = tmp_path / "all.json", tmp_path / "some.json"
    coco = {
        "images": [{"id": i} for i in (5, 3, 9)],
        "annotations": [{"id": i, "image_id": image} for i, image in enumerate((9, 5, 3, 5))],
        "categories": [{"id": 1, "name": "a"}],
    }
    source.write_text(json.dumps(coco))
    assert "2 images, 3 annotations" in run_tool("subset_coco.py", str(source), "2", str(output))
    part = json.loads(output.read_text())
    assert [image["id"] for image in part["images"]] == [5, 3] and part["categories"] == coco["categories"]
    assert {a["image_id"] for a in part["annotations"]} == {5, 3}
    output.unlink()
    for number in ("4", "0"):
        printed = run_tool("subset_coco.py", str(source), number, str(output))
        assert printed.endswith(f"has 3 images, but {number} are requested")
    source.write_text("[1]")
    assert "is not a COCO JSON" in run_tool("subset_coco.py", str(source), "1", str(output))
    assert not output.exists()
