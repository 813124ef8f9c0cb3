"""Looking up strings (special cases, units, stop words) by hash, inside kernels."""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.intrinsics import high_product, load64
from curation.measure.spacy_english import BLOOM_BITS, HASH_MULTIPLIER, HASH_START, NO_STRING

_START, _MULTIPLIER = np.uint64(HASH_START), np.uint64(HASH_MULTIPLIER)
_BLOOM_MASK = np.uint64(BLOOM_BITS - 1)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@njit(nogil=True, inline="always", _nrt=False)
def hash_bytes(text, start, end):
    """A 64-bit hash of text[start:end]; up to seven bytes behind `end` are read, so the array must be padded.

    Strings of up to eight bytes never collide with others of their length; see `hashing.extend_hash` for longer.
    """
    hashed = np.uint64(end - start) * _START
    while end - start > 8:
        hashed = folded(hashed, load64(text, start))
        start += 8
    if end > start:
        hashed = mixed(hashed, load64(text, start) & (_ALL >> np.uint64(64 - 8 * (end - start))))
    return hashed


@njit(nogil=True, inline="always", _nrt=False)
def folded(hashed, word):
    """A step of the hash that others follow: both halves of a product, so that no later bytes undo what it did."""
    hashed ^= word
    return high_product(hashed, _MULTIPLIER) ^ hashed * _MULTIPLIER


@njit(nogil=True, inline="always", _nrt=False)
def combined(hashed, word):
    """A hash of two numbers: both halves of their product."""
    hashed, word = hashed ^ _START, word ^ _MULTIPLIER
    return high_product(hashed, word) ^ hashed * word


@njit(nogil=True, inline="always", _nrt=False)
def mixed(hashed, word):
    """The last step of the hash, which no two words have in common."""
    hashed = (hashed ^ word) * _MULTIPLIER
    return hashed ^ hashed >> np.uint64(32)


@njit(nogil=True, inline="always", _nrt=False)
def hash_short(word, second, length):
    """`hash_bytes` of 1 to 16 bytes, of which these are the first and the second eight; without branches."""
    start = np.uint64(length) * _START
    long = length > 8
    hashed = folded(start, word) if long else start
    last = second if long else word
    return mixed(hashed, last & _ALL >> np.uint64(8 * ((16 if long else 8) - length)))


@njit(nogil=True, inline="always", _nrt=False)
def _in_bloom(hashed, bloom):
    bit = hashed & _BLOOM_MASK
    return bloom[bit >> np.uint64(6)] >> (bit & np.uint64(63)) & np.uint64(1)


@njit(nogil=True, forceinline=True, _nrt=False)
def find_string(hashed, strings):
    """The number of the string with this hash, NO_STRING if there is none."""
    return _search(hashed, strings) if _in_bloom(hashed, strings.bloom) else np.int64(NO_STRING)


@njit(nogil=True, _nrt=False)
def _search(hashed, strings):
    mask = np.uint64(len(strings.keys) - 1)
    place = hashed >> np.uint64(20) & mask
    while strings.numbers[place] != NO_STRING:
        if strings.keys[place] == hashed:
            return np.int64(strings.numbers[place])
        place = (place + np.uint64(1)) & mask
    return np.int64(NO_STRING)


@njit(nogil=True, forceinline=True, _nrt=False)
def special_case(hashed, strings):
    """The number of the special case with this hash, NO_STRING if no string with this hash is one."""
    if _in_bloom(hashed, strings.special):
        number = _search(hashed, strings)
        if number >= 0 and strings.rule_from[number + 1] > strings.rule_from[number]:
            return number
    return np.int64(NO_STRING)


@njit(nogil=True, inline="always", _nrt=False)
def stop_word(hashed, strings):
    """The bit of the stop word with this hash, 0 if there is none; without branches."""
    place = hashed >> np.uint64(20) & np.uint64(len(strings.stop_keys) - 1)
    return np.int64(strings.stop_bits[place]) * (strings.stop_keys[place] == hashed)


@njit(nogil=True, forceinline=True, _nrt=False)
def begins_phrase(first, second, strings):
    """Whether a special case, as it would be split without its rule, begins with the tokens of these hashes."""
    pair = combined(first, second)
    return _in_bloom(pair, strings.pair_bloom) != 0 and _search_pair(pair, strings.pairs)


@njit(nogil=True, _nrt=False)
def _search_pair(pair, pairs):
    mask = np.uint64(len(pairs) - 1)
    place = pair >> np.uint64(20) & mask
    while pairs[place]:
        if pairs[place] == pair:
            return True
        place = (place + np.uint64(1)) & mask
    return False
