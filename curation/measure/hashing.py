"""Hashing inside kernels: a running hash of bytes, and an open-addressing table from keys to dense numbers."""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.key_kernels import mix64
from curation.measure.intrinsics import high_product, load64, ones

HASH_START = np.uint64(0xCBF29CE484222325)  # the basis and prime of FNV-1a, 64 bits
HASH_PRIME = np.uint64(0x100000001B3)
_FOLD = np.uint64(0x9E3779B97F4A7C15)  # odd, half of its bits 1
_1, _63 = np.uint64(1), np.uint64(63)
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


@njit(inline="always")
def eight_bytes(data, at):
    """The eight bytes of data[at : at + 8] as one number, the first byte lowest; any number from the end on.

    Without a branch: with one, numba counts references to `data` at each word.
    """
    place = min(at, len(data) - 8)
    return load64(data, place) >> (np.uint64(8 * (at - place)) & _63)


@njit(inline="always")
def first_bytes(chunk, length):
    """A chunk without what lies past its first `length` bytes, 0 to 8."""
    return chunk & (np.uint64(length < 8) << (np.uint64(8 * length) & _63)) - _1


@njit(inline="always")
def gone_on(chunk):
    """How many bytes of a chunk go on a character that others begin."""
    return ones(chunk >> np.uint64(7) & ~(chunk >> np.uint64(6)) & _EACH_1)


@njit(nogil=True)
def hash_bytes(data, start, stop):
    """The hash of data[start:stop], eight bytes at a time, and how many of them do not go on a character."""
    hashed, chars, at = HASH_START ^ np.uint64(stop - start), stop - start, start
    while at < stop:
        chunk = first_bytes(eight_bytes(data, at), min(stop - at, 8))
        mixed = hashed ^ chunk
        hashed = high_product(mixed, _FOLD) ^ mixed * _FOLD
        chars -= gone_on(chunk)
        at += 8
    return hashed, chars
