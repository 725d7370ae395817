"""Pictures and pages of annotations."""

from __future__ import annotations

from tellapart.errors import InputError
from tellapart.visualization.data_sheet import write_data_sheet
from tellapart_cli import main

import cv2
import pytest
from browser import check_alone


@pytest.fixture(autouse=True)
def few_shapes(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("TELLAPART_CACHE", str(tmp_path_factory.getbasetemp() / "shapes"))


def test_a_picture_with_colored_objects(tmp_path):
    shown, total = write_data_sheet(tmp_path / "a.png", "shapes_val", 5, seed=1)
    assert shown == 5 < total
    sheet = cv2.imread(str(tmp_path / "a.png"))
    saturated = (sheet.max(2).astype(int) - sheet.min(2) > 80).mean()
    assert sheet.shape[1] > 4 * 360 and sheet.shape[0] > 2 * 360 and saturated > 0.05
    write_data_sheet(tmp_path / "b.png", "shapes_val", 5, seed=2)
    write_data_sheet(tmp_path / "c.png", "shapes_val", 5, seed=1)
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == c != b


def test_a_page_loads_nothing_from_elsewhere(tmp_path, capsys):
    main(["show", "shapes_val", "--num", "3", "--output", str(tmp_path / "page.html")])
    assert "3 of " in capsys.readouterr().out
    text = (tmp_path / "page.html").read_text()
    assert text.count("<img ") == 3
    check_alone(text)


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a .png or .html file"):
        write_data_sheet(tmp_path / "a.pdf", "shapes_val", 5)
    with pytest.raises(InputError, match="expected at least 1"):
        write_data_sheet(tmp_path / "a.png", "shapes_val", 0)
