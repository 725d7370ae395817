"""A check of a TIFF's list of pages, before tifffile reads them."""

from __future__ import annotations

import os
import struct
from typing import IO

# Version in the header -> bytes of: the header, a page's number of tags, a tag, the offset of the next page.
_LAYOUTS = {42: (8, 2, 12, 4), 43: (16, 8, 20, 8)}
_FORMATS = {2: "H", 4: "I", 8: "Q"}


def check_pages(file: IO[bytes]) -> None:
    """Check that the tags of all pages fit into the file, and go back to its start.

    In a broken file, pages can overlap; tifffile then reads thousands of tags for each, which takes minutes.

    Raises:
        OSError: the pages overlap, or reach over the end of the file.
    """
    num_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(16)
    order = "<" if start[:2] == b"II" else ">"
    layout = _LAYOUTS.get(struct.unpack(order + "H", start[2:4])[0] if len(start) >= 4 else 0)
    if layout is not None and num_bytes < 2**32:
        header, count_size, tag_size, offset_size = layout
        offset = _number(start[header - offset_size : header], order)
        num_used = header
        while offset:
            file.seek(offset)
            num_tags = _number(file.read(count_size), order)
            num_used += count_size + num_tags * tag_size + offset_size
            if num_used > num_bytes:
                raise OSError("its pages overlap or reach over the end of the file: it is broken")
            file.seek(offset + count_size + num_tags * tag_size)
            offset = _number(file.read(offset_size), order)
    file.seek(0)


def _number(data: bytes, order: str) -> int:
    """Return an unsigned number, 0 for data that ends too early."""
    return struct.unpack(order + _FORMATS[len(data)], data)[0] if len(data) in _FORMATS else 0
