"""Fixed strings that are looked for many at once, by a few bytes of each that are rare in other text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from curation.compiled import njit

Needles = tuple[np.ndarray, np.ndarray, np.ndarray]


def needle_tables(needles: Mapping[bytes, bytes]) -> Needles:
    """What `holds_needle` needs to know of strings and the two or more bytes that each is looked for by."""
    width = max(map(len, needles)) + 1
    strings = np.array([[*needle.ljust(width, b"\0")] for needle in needles], np.uint8)
    places = np.array([needle.index(rare) for needle, rare in needles.items()])
    pairs = np.array([int.from_bytes(rare[:2], "little") for rare in needles.values()])
    return strings, places, pairs


@njit(nogil=True)
def holds_needle(data, at, start, end, tables):
    """Whether one of the strings lies between bytes `start` and `end`, its rare bytes at `at`."""
    strings, places, pairs = tables
    for number in range(len(strings)):
        if pairs[number] != np.int64(data[at]) | np.int64(data[at + 1]) << 8:
            continue
        first, length = at - places[number], 0
        if first < start:
            continue
        while strings[number, length] and first + length < end and data[first + length] == strings[number, length]:
            length += 1
        if strings[number, length] == 0:
            return True
    return False
