"""The view that kernels have of text: the two buffers of an Arrow large_string array, and a UTF-8 decoder."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numba import njit

REPLACEMENT = 0xFFFD
LONGEST_DOCUMENT = (1 << 31) - 1  # bytes; positions within a document are int32 in the kernels


def text_buffers(texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    """The bytes (uint8, read-only) of an array's texts and their offsets (int64, shape (n + 1,)); no copy.

    A slice is seen as a slice. Nulls are not looked at: fill them first. Raises TypeError for another type and
    ValueError for a document of 2 GiB or more.
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
    empty = data_buffer is None or data_buffer.size == 0
    data = np.frombuffer(b"" if empty else data_buffer, np.uint8)
    return data, offsets


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
