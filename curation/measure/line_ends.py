"""Where lines end: newlines by blocks of 64 bytes."""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.intrinsics import line_end_mask, ones, trailing_zeros
from curation.measure.utf8 import BLOCK, block_at

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@njit(nogil=True)
def newline(data, at, end):
    """The place of the first newline of data[at:end], `end` without one."""
    while at < end:
        place, shift = block_at(data, at)
        found = line_end_mask(data, place) >> shift
        if found:
            return min(end, at + trailing_zeros(found))
        at += BLOCK
    return end


@njit(nogil=True)
def newlines(data, at, end):
    """How many newlines there are in data[at:end]."""
    count = 0
    while at < end:
        place, shift = block_at(data, at)
        inside = _ALL >> np.uint64(BLOCK - min(BLOCK, end - at))
        count += ones(line_end_mask(data, place) >> shift & inside)
        at += BLOCK
    return count
