"""Checks of HTML pages: that they load nothing, and how they look in headless Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt install chromium)")


def check_alone(text: str) -> None:
    """Check that a page loads nothing: all its sources and links are data or parts of the page."""
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text)
    assert "@import" not in text and not re.findall(r"url\((?!#)", text) and "<script" not in text


def check_in_browser(page: Path, folder: Path, width: int) -> None:
    """Check that there is no message on the console, no broken picture, and no part wider than the window.

    The window is a frame, because Chromium's own windows are at least 500 px wide. There is no network.
    """
    script = (
        "document.title = frames[0].document.documentElement.scrollWidth + ' ' + frames[0].document.images.length "
        "+ ' ' + [...frames[0].document.images].filter(one => !one.naturalWidth).length"
    )
    frame = folder / "frame.html"
    frame.write_text(f'<iframe src="file://{page}" width="{width}" height="900" onload="{script}"></iframe>')
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom"]
    flags += ["--enable-logging=stderr", "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}"]
    run = subprocess.run([CHROMIUM, *flags, f"file://{frame}"], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(\d+) (\d+) (\d+)</title>", run.stdout)
    assert title, run.stderr[-2000:]
    scroll_width, num_images, num_broken = (int(one) for one in title.groups())
    assert scroll_width <= width and num_images >= 1 and num_broken == 0
    assert "CONSOLE" not in run.stderr
