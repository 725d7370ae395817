"""HTML pages in one file: templates, pictures and charts are in the page, and nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
import re
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from ..errors import InputError
from ..files import atomic_file

_JPEG_QUALITY = 82
_COLORS = ("#1f6feb", "#d1495b", "#2a9d5c", "#8e5bc0", "#b8860b")
_STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "axes.titlesize": 10, "svg.fonttype": "path", "legend.frameon": False,
}  # fmt: skip
_templates = Environment(
    loader=PackageLoader("tellapart.visualization"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip


def write_page(path: str | Path, template: str, **values: Any) -> None:
    """Fill a template of ``visualization/templates`` and write the page.

    Raises:
        InputError: the file cannot be written.
    """
    text = _templates.get_template(template).render(**values)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"page {path} cannot be written: {error}") from error


def picture(pixels: np.ndarray, text: str, lossless: bool = False) -> Markup:
    """Return a picture, uint8 BGR (H, W, 3), as an HTML element.

    Args:
        pixels: of the picture.
        text: what it shows, for those who cannot see it.
        lossless: PNG instead of JPEG, for pictures with few colors.
    """
    kind, options = (".png", []) if lossless else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    data = base64.b64encode(cv2.imencode(kind, pixels, options)[1].tobytes()).decode("ascii")
    kind = "png" if lossless else "jpeg"
    return Markup('<img src="data:image/{};base64,{}" alt="{}" width="{}" height="{}">').format(
        kind, data, text, pixels.shape[1], pixels.shape[0]
    )


def chart(
    title: str, x_label: str, y_label: str, lines: dict[str, tuple], *, points: bool = False, diagonal: bool = False,
    marks: dict[str, float] | None = None, limits: tuple[float, float] | None = None, log: bool = False,
) -> Markup:  # fmt: skip
    """Return a chart as an SVG element.

    Args:
        title, x_label, y_label: its texts.
        lines: by name, x and y of each line.
        points: draw points instead of lines.
        diagonal: add the line x = y.
        marks: vertical lines, x by name.
        limits: the range of y.
        log: a logarithmic y axis.
    """
    marks = marks or {}
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.subplots()
        for (name, (x, y)), color in zip(lines.items(), _COLORS * (1 + len(lines) // len(_COLORS))):
            if points:
                axes.scatter(x, y, s=14, alpha=0.6, color=color, label=name, linewidths=0)
            else:
                axes.plot(x, y, color=color, label=name, linewidth=1.5, marker="." if len(x) < 30 else None)
        for name, x in marks.items():
            axes.axvline(x, color="#555555", linestyle="--", linewidth=1, label=name)
        if diagonal:
            end = max([1.0, *(float(np.max(values, initial=0)) for line in lines.values() for values in line)])
            axes.plot([0, end], [0, end], color="#555555", linestyle="--", linewidth=1)
        if limits is not None:
            axes.set_ylim(*limits)
        if log:
            axes.set_yscale("log")
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        if len(lines) + len(marks) > 1:
            axes.legend(fontsize=7 if len(lines) > 4 else 8, ncols=1 + len(lines) // 4)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return _inline_svg(file.getvalue(), title)


def _inline_svg(text: str, title: str) -> Markup:
    """Return the SVG element of a file: without its prolog, fixed size and metadata, and with ids of its own."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    prefix = f"c{zlib.crc32(text.encode()):08x}-"  # a page has several charts
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}", svg)
    return Markup(svg).replace("<svg ", Markup('<svg role="img" aria-label="{}" ').format(title), 1)
