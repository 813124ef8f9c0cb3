"""Words as fastText sees them: where they are, their place in the dictionary, their hashes, their rows."""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.intrinsics import high_product, load64, ones, prefetch, trailing_zeros

END_OF_TEXT = b"</s>"
LABEL_MARK = b"__label__"
END_MARK, START_OF_LABEL = np.frombuffer(END_OF_TEXT, np.uint8), np.frombuffer(LABEL_MARK, np.uint8)
HASH_BASIS, HASH_PRIME = np.uint32(2166136261), np.uint32(16777619)  # of FNV-1a in 32 bits
ENTRY = np.uint64(0xFFFFFFFF)  # the bits of what `find_key` gives that are no hash
_START, _FACTOR = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)  # odd numbers without pattern
_ONES, _HIGH = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_LOW = ~_HIGH
_PRESENT = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)  # the lowest bytes of eight


@njit(nogil=True)
def _blanks(chunk):
    """The highest bit of each byte that divides words for fastText: NUL, blank, and 9 to 13 of ASCII."""
    low = chunk & _LOW
    spaces = chunk ^ (_ONES * np.uint64(32))
    is_space = (spaces & _LOW) + _LOW | spaces
    is_null = low + _LOW | chunk
    controls = (low + _ONES * np.uint64(0x7F - 8)) & ~(low + _ONES * np.uint64(0x7F - 13)) & ~chunk
    return (~is_space | ~is_null | controls) & _HIGH


@njit(nogil=True)
def find_blanks(data, start, end, places):
    """Write where data[start:end] has bytes that divide words to `places`; returns how many there are.

    `places` (int64) needs room for end - start + 4. Of eight bytes the first four finds are written unasked, since
    a processor cannot guess how many there are.
    """
    known, at = 0, start
    while at + 8 <= end:
        marks = _blanks(load64(data, at))
        count, more = ones(marks), known
        while True:
            for step in range(4):
                places[more + step] = at + (trailing_zeros(marks) >> 3)
                marks &= marks - np.uint64(1)
            more += 4
            if not marks:
                break
        known += count
        at += 8
    while at < end:
        byte = data[at]
        places[known] = at
        known += byte == 0 or byte == 32 or 9 <= byte <= 13
        at += 1
    return known


@njit(nogil=True)
def chunk_of(data, at, end):
    """Up to eight bytes data[at:end] as one number, zeros above them; 0 where there are none."""
    size = end - at
    if at + 8 <= len(data):
        return load64(data, at) & _PRESENT[np.uint64(max(0, min(size, 8)))]
    chunk = np.uint64(0)
    for place in range(min(size, 8)):
        chunk |= np.uint64(data[at + place]) << np.uint64(8 * place)
    return chunk


@njit(nogil=True)
def word_key(data, start, end):
    """A hash of 64 bits that tells words apart: never alike for two words of one length up to eight bytes."""
    key, at = _START * np.uint64(end - start), start
    while at < end:
        key = (key ^ chunk_of(data, at, end)) * _FACTOR
        key ^= key >> np.uint64(32)
        at += 8
    return key


@njit(nogil=True)
def hash_on(hashed, byte):
    """FNV-1a, which fastText gives signed bytes."""
    return np.uint32((hashed ^ np.uint32(np.int8(byte))) * HASH_PRIME)


@njit(nogil=True)
def word_hash(data, start, end):
    """fastText's hash of a word (uint32)."""
    hashed = HASH_BASIS
    for at in range(start, end):
        hashed = hash_on(hashed, data[at])
    return hashed


@njit(nogil=True, cache=True)
def fill_slots(spelling, ends, slots):
    """Put the dictionary's entries into an open-addressing table: a row a slot, key and what `find_key` gives.

    `slots` is uint64 (n, 2), all 0, n a power of two above the number of entries.
    """
    mask = np.uint64(len(slots) - 1)
    for entry in range(len(ends) - 1):
        key = word_key(spelling, ends[entry], ends[entry + 1])
        hashed = word_hash(spelling, ends[entry], ends[entry + 1])
        slot = key & mask
        while slots[slot, 1]:
            slot = (slot + np.uint64(1)) & mask
        slots[slot, 0], slots[slot, 1] = key, np.uint64(hashed) << np.uint64(32) | np.uint64(entry + 1)


@njit(nogil=True)
def ask_for_key(key, slots):
    """Fetch what `find_key` will look at first."""
    prefetch(slots, np.int64((key & np.uint64(len(slots) - 1)) << np.uint64(1)))


@njit(nogil=True)
def find_key(key, slots):
    """What the dictionary holds for a key: entry + 1 (ENTRY), in the upper half fastText's hash; 0 for nothing."""
    mask = np.uint64(len(slots) - 1)
    slot = key & mask
    while slots[slot, 1] != np.uint64(0) and slots[slot, 0] != key:
        slot = (slot + np.uint64(1)) & mask
    return slots[slot, 1]


@njit(nogil=True)
def begins_with(data, start, end, mark):
    """Whether data[start:end] begins with `mark`."""
    if end - start < len(mark):
        return False
    same = True
    for at in range(len(mark)):
        same &= data[start + at] == mark[at]
    return same


@njit(nogil=True)
def bucket_row(bucket, ranks):
    """(row, whether there is one) of a bucket of n-grams.

    A pruned model has rows for some buckets only, in their order: `ranks` (uint64, (n, 2)) holds a bit for each of
    64 buckets and how many rows come before them. It is empty for a model that has all.
    """
    if len(ranks) == 0:
        return np.int64(bucket), True
    block, place = bucket >> np.uint64(6), bucket & np.uint64(63)
    bits = ranks[block, 0]
    before = ones(bits & ~(~np.uint64(0) << place))
    return np.int64(ranks[block, 1]) + before, (bits >> place & np.uint64(1)) != np.uint64(0)


@njit(nogil=True)
def modulo(number, divisor, inverse):
    """number % divisor (uint64) without a division; `inverse` is (2**64 - 1) // divisor."""
    # The quotient is short by two at most.
    rest = number - high_product(number, inverse) * divisor
    rest -= divisor if rest >= divisor else np.uint64(0)
    return rest - (divisor if rest >= divisor else np.uint64(0))
