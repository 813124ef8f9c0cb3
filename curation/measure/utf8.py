"""The view that kernels have of text: the two buffers of an Arrow large_string array, and a UTF-8 decoder."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from curation.compiled import njit

REPLACEMENT = 0xFFFD
LONGEST_DOCUMENT = (1 << 31) - 1  # bytes; positions within a document are int32 in the kernels
BLOCK = 64  # bytes that kernels read at once: no buffer has fewer


def text_buffers(texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    """The bytes (uint8, read-only) of an array's texts and their offsets (int64, shape (n + 1,)); no copy.

    A slice is seen as a slice. Fewer than BLOCK bytes are copied, with zeros after them to make up a block. Nulls
    are not looked at: fill them first. Raises TypeError for another type and ValueError for a document of 2 GiB or
    more.
    """
    if not pa.types.is_large_string(texts.type):
        raise TypeError(f"expected an array of large_string, found {texts.type}")
    _, offset_buffer, data_buffer = texts.buffers()
    if len(texts) == 0:
        offsets = np.zeros(1, np.int64)
    else:
        offsets = np.frombuffer(offset_buffer, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        if int(np.diff(offsets).max()) > LONGEST_DOCUMENT:
            row = int(np.diff(offsets).argmax())
            raise ValueError(f"row {row} of the batch holds {np.diff(offsets).max()} bytes; the limit is 2 GiB")
    offsets.flags.writeable = False
    if data_buffer is None or data_buffer.size < BLOCK:
        data_buffer = bytes(data_buffer or b"").ljust(BLOCK, b"\0")
    return np.frombuffer(data_buffer, np.uint8), offsets


@njit(inline="always")
def block_at(data, at):
    """Where to read the block of 64 bytes from `at` on, and by how many bits (uint64) to move its masks down.

    Near the end of the buffer a block lies before `at`, so that nothing is read past it: a mask that is moved
    down has 0 for what lies there.
    """
    place = min(at, len(data) - BLOCK)
    return place, np.uint64(at - place)


@njit(nogil=True)
def decode(data, at, end):
    """The code point that starts at byte `at` and the place of the next one; reads nothing at or past `end`.

    A byte that starts no complete sequence, or one beyond Unicode, is U+FFFD of one byte: Parquet files can hold
    invalid UTF-8 that nobody has checked.
    """
    first = np.int64(data[at])
    if first < 0x80:
        return first, at + 1
    if first < 0xC2 or first > 0xF4:
        return np.int64(REPLACEMENT), at + 1
    more = 1 if first < 0xE0 else 2 if first < 0xF0 else 3
    if at + more >= end:
        return np.int64(REPLACEMENT), at + 1
    code = first & (0x3F >> more)
    for step in range(1, more + 1):
        following = np.int64(data[at + step])
        if following & 0xC0 != 0x80:
            return np.int64(REPLACEMENT), at + 1
        code = code << 6 | (following & 0x3F)
    if code >= 0x110000:
        return np.int64(REPLACEMENT), at + 1
    return code, at + more + 1


@njit(inline="always")
def encode_point(point):
    """(bytes as a big-endian integer, width) of a code point in UTF-8."""
    if point < 0x80:
        return np.uint64(point), 1
    if point < 0x800:
        return np.uint64(0xC080 | (point >> 6) << 8 | (point & 0x3F)), 2
    if point < 0x10000:
        return np.uint64(0xE08080 | (point >> 12) << 16 | ((point >> 6) & 0x3F) << 8 | (point & 0x3F)), 3
    high = 0xF0808080 | (point >> 18) << 24 | ((point >> 12) & 0x3F) << 16
    return np.uint64(high | ((point >> 6) & 0x3F) << 8 | (point & 0x3F)), 4
