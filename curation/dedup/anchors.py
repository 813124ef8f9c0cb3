"""Anchors: places in a text that its content alone chooses, so that equal strings have them at equal places.

Each window of `length` bytes has one anchor: of the n-grams of bytes within it, the one of the smallest hash, the
last of several (winnowing: Schleimer, Wilkerson, Aiken 2003, "Winnowing: local algorithms for document
fingerprinting"). Two equal windows have equal anchors, equally far from their beginnings. So the windows that
could be equal are those whose anchors' n-grams are equal, and a table of anchors, about 2 in `length - gram`
bytes, stands for all windows of the text.

Hashes decide only what is compared. What is said to be equal has been compared byte by byte (`windows.py`).
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.key_kernels import mix64

# The windows that begin at bytes first, first + 1, ..., first + count - 1 of a document have this anchor.
ANCHOR = np.dtype(
    [
        ("key", "<u8"),  # hash of the anchor's n-gram, uniform
        ("document", "<u4"),
        ("place", "<u4"),  # of the anchor: byte of the document
        ("first", "<u4"),
        ("count", "<u4"),
    ]
)
BASE = 0xD1342543DE82EF0B  # odd, 3 modulo 8
_BASE = np.uint64(BASE)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LARGEST = np.uint64(0xFFFFFFFFFFFFFFFF)


def gram_of(length: int) -> int:
    """Bytes of the n-grams that anchor windows of `length` bytes: a quarter of them.

    Shorter ones stand in more places by chance; longer ones leave fewer places to choose from, so more anchors.
    """
    return max(1, length // 4)


def find_anchors(data: np.ndarray, offsets: np.ndarray, documents: np.ndarray, length: int) -> np.ndarray:
    """The anchors of the windows of `length` bytes of texts: ANCHOR[k], text by text, their windows rising.

    `data`, `offsets`: as `curation.measure.utf8.text_buffers` gives them; `documents` uint32 (n,): the number to
    write for each text. A text of fewer than `length` bytes has no window.
    """
    expected = len(data) // max(1, (length - gram_of(length)) // 3) + 64
    return _find(data, offsets, documents, length, gram_of(length), np.empty(expected, ANCHOR))


@njit(inline="always")
def byte_hash(byte):
    """What a byte adds to a rolling hash: spread over 64 bits."""
    return (np.uint64(byte) + np.uint64(1)) * _GOLDEN


@njit(nogil=True)
def power(length):
    """BASE to the power of `length`: by what a byte that leaves a window of `length` bytes counts there."""
    product = np.uint64(1)
    for _ in range(length):
        product *= _BASE
    return product


@njit(nogil=True, cache=True)
def _find(data, offsets, documents, length, gram, out):
    width = length - gram + 1  # n-grams of a window
    hashes = np.empty(8 * width, np.uint64)  # the latest n-grams' hashes, at least `width` of them
    leaving = power(gram)
    found = 0
    for row in range(len(documents)):
        start, size = offsets[row], offsets[row + 1] - offsets[row]
        if size < length:
            continue
        rolled = np.uint64(0)
        for at in range(start, start + gram - 1):
            rolled = rolled * _BASE + byte_hash(data[at])
        left = np.uint64(0)
        filled, dropped = 0, 0  # hashes held; n-grams before hashes[0]
        best, place, anchor = _LARGEST, -1, -1
        for number in range(size - gram + 1):
            rolled = rolled * _BASE + (byte_hash(data[start + number + gram - 1]) - left * leaving)
            left = byte_hash(data[start + number])
            hashed = (rolled ^ (rolled >> np.uint64(32))) * _GOLDEN
            if filled == len(hashes):
                hashes[: width - 1] = hashes[filled - width + 1 :]
                dropped += filled - width + 1
                filled = width - 1
            hashes[filled] = hashed
            filled += 1
            if hashed <= best:
                best, place = hashed, number
            elif place <= number - width:  # it has left the window: look at all that are in it
                best = _LARGEST
                for at in range(filled - width, filled):
                    if hashes[at] <= best:
                        best, place = hashes[at], dropped + at
            if number < width - 1:
                continue
            if place != anchor:
                anchor = place
                if found == len(out):
                    larger = np.empty(2 * len(out), out.dtype)
                    larger[:found] = out
                    out = larger
                entry = out[found]
                entry["key"], entry["document"], entry["place"] = mix64(best), documents[row], place
                entry["first"], entry["count"] = number - width + 1, 0
                found += 1
            out[found - 1]["count"] += 1
    return out[:found]
