"""Hashing inside kernels: a running hash of bytes, and an open-addressing table from keys to dense numbers."""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.key_kernels import mix64

HASH_START = np.uint64(0xCBF29CE484222325)  # the basis and prime of FNV-1a, 64 bits
HASH_PRIME = np.uint64(0x100000001B3)
_EACH_1, _EACH_40 = np.uint64(0x0101010101010101), np.uint64(0x4040404040404040)


@njit(nogil=True)
def extend_hash(hashed, value):
    """The running hash after one more byte or code point; `mix64` of the last one is the hash of the whole.

    Two strings of one document are taken as equal when their 64-bit hashes are: with ten million distinct words
    in a document the chance of any mistake is 3 in a million.
    """
    return (hashed ^ np.uint64(value)) * HASH_PRIME


@njit(nogil=True)
def table_size(entries):
    """The power of two that keeps a table of so many entries at most half full."""
    size = 2
    while size < 2 * entries:
        size *= 2
    return size


@njit(nogil=True)
def number_of(key, keys, known, slots, size):
    """The number of `key` among the `known` ones in `keys`; `known` itself if it is new, and then it is added.

    `slots` (int32) holds -1 where free in its first `size` places, `size` a power of two above `known`.
    """
    place = mix64(key) & np.uint64(size - 1)
    while True:
        number = slots[place]
        if number < 0:
            slots[place] = known
            keys[known] = key
            return np.int64(known)
        if keys[number] == key:
            return np.int64(number)
        place = (place + np.uint64(1)) & np.uint64(size - 1)


@njit(inline="always")
def lowered(chunk):
    """Eight ASCII characters, letters lower-cased; what else lies from `@` to `^` is changed too."""
    capital = chunk & ~((chunk + _EACH_1) << np.uint64(1)) & _EACH_40  # 0x40 to 0x5E: not the underscore
    return chunk | capital >> np.uint64(1)


@njit(inline="always")
def numbered(key, start, keys, counts, firsts, slots, mask, known):
    """The number of `key` among the `known` ones, counted once more, and how many are known then.

    `firsts` keeps the `start` that came with a key first. What a new key needs is written in any case, past what
    is known, so that only keys that share a slot cost a branch. `slots` (int32) holds -1 where free in its first
    mask + 1 places, a power of two above `known`.
    """
    keys[known], counts[known], firsts[known] = key, 0, start
    place = np.int64(mix64(key) & mask)
    while True:
        number = np.int64(slots[place])
        number = known if number < 0 else number
        if keys[number] == key:
            break
        place = np.int64(np.uint64(place + 1) & mask)
    slots[place] = number
    counts[number] += 1
    return number, known + (number == known)
