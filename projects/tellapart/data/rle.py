"""Check compressed run-length encodings (RLE) before pycocotools decodes them.

pycocotools trusts the string: a broken one makes it read or write outside of its memory, or never return. Format:
each count is written in groups of 5 bits, lowest first, one ASCII character ``48 + group`` each, with 32 added if more
groups follow. The last group's bit 16 is the sign. From the fourth count on, the difference to the count two before is
written.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_MAX_GROUPS = 7  # 35 bits: more than any image has pixels


def check_compressed_rles(strings: Sequence[str | bytes], num_pixels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Decode the counts of compressed RLEs, and check that they are valid and add up to their images' pixels.

    Args:
        strings: the ``counts`` of N RLEs.
        num_pixels: height * width of their images, N numbers.

    Returns:
        bool (N,): whether each string is valid. int64 (N,): the number of foreground pixels; 0 where it is not valid.
    """
    encoded = [text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass") for text in strings]
    lengths = np.array([len(text) for text in encoded], dtype=np.int64)
    groups = np.frombuffer(b"".join(encoded), dtype=np.uint8).astype(np.int64) - 48
    owner = np.repeat(np.arange(len(encoded)), lengths)  # the string of each character
    is_valid = lengths > 0
    is_valid[owner[(groups < 0) | (groups > 63)]] = False
    last_characters = np.cumsum(lengths)[is_valid] - 1
    is_valid[np.flatnonzero(is_valid)[groups[last_characters] & 32 != 0]] = False  # it ends within a count

    groups, owner = groups[is_valid[owner]], owner[is_valid[owner]]
    areas = np.zeros(len(encoded), dtype=np.int64)
    if not len(groups):
        return is_valid, areas
    ends = np.flatnonzero(groups & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    num_groups = ends - starts + 1
    owner = owner[ends]  # from here on: the string of each count
    is_valid[owner[num_groups > _MAX_GROUPS]] = False
    shifts = 5 * np.minimum(np.arange(len(groups)) - np.repeat(starts, num_groups), _MAX_GROUPS)
    values = np.add.reduceat((groups & 31) << shifts, starts)
    values -= np.where(groups[ends] & 16, 1 << 5 * np.minimum(num_groups, _MAX_GROUPS), 0)

    first_count = np.concatenate(([0], np.flatnonzero(np.diff(owner)) + 1))
    index = np.arange(len(values)) - np.repeat(first_count, np.diff(np.append(first_count, len(values))))
    counts = values.copy()
    # The differences are relative to the count two before, from index 3 on: two chains, of odd indices and of even
    # indices from 2 on.
    for chain in (index % 2 == 1, (index % 2 == 0) & (index > 0)):
        counts[chain] = _cumulative_sum_per_owner(values[chain], owner[chain])
    is_valid[owner[counts < 0]] = False
    totals = np.bincount(owner, weights=counts, minlength=len(encoded))
    is_valid &= totals == np.asarray(num_pixels, dtype=np.float64)
    foreground = np.where(index % 2 == 1, counts, 0)
    areas += np.bincount(owner, weights=foreground, minlength=len(encoded)).astype(np.int64)
    areas[~is_valid] = 0
    return is_valid, areas


def _cumulative_sum_per_owner(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return the cumulative sums of ``values``, restarted where the sorted ``owner`` changes."""
    if not len(values):
        return values
    sums = np.cumsum(values)
    first = np.concatenate(([0], np.flatnonzero(np.diff(owner)) + 1))
    before = np.concatenate(([0], sums[first[1:] - 1]))
    return sums - np.repeat(before, np.diff(np.append(first, len(values))))
