"""Unicode words many at a time: where they are, by blocks of 64 bytes, and their hashes, by eight bytes.

A word is what `curation.measure.repetition` says it is.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.key_kernels import mix64
from curation.measure.hashing import eight_bytes, first_bytes, gone_on, lowered
from curation.measure.intrinsics import (
    beyond_mask,
    comma_mask,
    digit_mask,
    leading_zeros,
    letter_mask,
    middle_mask,
    ones,
    trailing_zeros,
    word_mask,
)
from curation.measure.next_word import next_word
from curation.measure.utf8 import BLOCK, block_at, decode, encode_point

_ALL, _1, _63 = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(1), np.uint64(63)
_FF = np.uint64(0xFF)
_EACH_1, _EACH_80 = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)


@njit(inline="always")
def _block(data, at, end):
    """Of the characters from `at` on, before which no word is open, those of ASCII up to the end of their block.

    Returns (bytes of the block, how many of them before one beyond ASCII, what of these lies in words, which of
    them are letters or digits, the last place at which a word that ends is known to end). Without any of ASCII the
    masks mean nothing.
    """
    place, shift = block_at(data, at)
    known = min(BLOCK, end - at)
    plain = min(known, trailing_zeros(beyond_mask(data, place) >> shift))
    inside = _ALL >> (np.uint64(BLOCK - plain) & _63)
    letters = letter_mask(data, place) >> shift & inside
    digits = digit_mask(data, place) >> shift & inside
    middles, commas = middle_mask(data, place) >> shift, comma_mask(data, place) >> shift
    words = word_mask(data, place) >> shift & inside
    words |= middles & letters << _1 & letters >> _1
    words |= (middles | commas) & digits << _1 & digits >> _1
    # Of the last byte it is not known whether it joins what follows, so no word ends surely before it.
    sure = plain if at + plain == end else plain - 2
    return known, plain, words, letters | digits, sure


@njit(nogil=True)
def find_words(data, begin, end, flags, starts, stops):
    """Write where the words of data[begin:end] start and stop, from `begin` on (int32); returns their number.

    `data` is of `text_buffers`. Words with a character beyond ASCII, and words too long for a block, are left to
    `next_word`.
    """
    count, at = 0, begin
    while at < end:
        known, plain, words, solid, sure = _block(data, at, end)
        if plain > 0:
            begins, ends = words & ~(words << _1), ~words & words << _1
            offset, open_word = at - begin, -1
            while begins:
                first, last = trailing_zeros(begins), trailing_zeros(ends)
                if last > sure:
                    open_word = first
                    break
                begins &= begins - _1
                ends &= ends - _1
                if trailing_zeros(solid >> np.uint64(first)) >= last - first:
                    continue  # underscores alone
                starts[count] = offset + first
                stops[count] = offset + last
                count += 1
            at += plain if open_word < 0 else open_word
            if plain == known and open_word != 0:
                continue
        while True:
            first, at = next_word(data, at, end, flags)
            if first == end:
                return count
            starts[count] = first - begin
            stops[count] = at - begin
            count += 1
            if at == end or data[at] < 0x80:
                break
    return count


@njit(nogil=True)
def words_between(data, at, end, flags):
    """How many words there are from byte `at` up to `end`: as many as `find_words` finds."""
    count = 0
    while at < end:
        known, plain, words, solid, sure = _block(data, at, end)
        if plain > 0:
            begins = words & ~(words << _1)
            open_word = -1
            if plain - sure > 0 and words >> np.uint64(max(sure, 0)):
                open_word = 63 - leading_zeros(begins)
                begins ^= _1 << np.uint64(open_word)
            count += ones(begins & solid)
            begins &= ~solid
            while begins:  # underscores: whether more than those follow
                rest = ~(words >> np.uint64(trailing_zeros(begins)))
                count += trailing_zeros(solid >> np.uint64(trailing_zeros(begins))) < trailing_zeros(rest)
                begins &= begins - _1
            at += plain if open_word < 0 else open_word
            if plain == known and open_word != 0:
                continue
        while True:
            first, at = next_word(data, at, end, flags)
            if first == end:
                return count
            count += 1
            if at == end or data[at] < 0x80:
                break
    return count


@njit(nogil=True, cache=True)
def count_words(data, offsets, flags, out):
    """Fill in `out`, int64 (n,): the words of each text."""
    for text in range(len(offsets) - 1):
        out[text] = words_between(data, offsets[text], offsets[text + 1], flags)


@njit(inline="always")
def _two_chunks(data, start, length):
    """The first sixteen bytes of a word as two numbers, with zeros for what it does not have."""
    first = first_bytes(eight_bytes(data, start), min(length, 8))
    return first, first_bytes(eight_bytes(data, start + 8), min(max(length - 8, 0), 8))


@njit(inline="always")
def _with_chunk(hashed, chunk, number):
    """The hash of a word with one more chunk, its `number`-th from 0 on. A second one of zeros changes nothing."""
    if number == 0:
        return chunk
    if number == 1:
        return hashed ^ mix64(chunk)
    return mix64(hashed) ^ chunk


@njit(inline="always")
def word_hash(data, start, length):
    """The hash of a word, of up to eight bytes themselves, and how many characters it has."""
    first, second = _two_chunks(data, start, length)
    hashed = _with_chunk(first, second, 1)
    chars = length - gone_on(first) - gone_on(second)
    at = 16
    while at < length:
        chunk = first_bytes(eight_bytes(data, start + at), min(length - at, 8))
        hashed = _with_chunk(hashed, chunk, at >> 3)
        chars -= gone_on(chunk)
        at += 8
    return hashed, chars


@njit(nogil=True)
def lower_hashes(data, begin, words, starts, stops, lower, hashes, others):
    """Write the `word_hash` of each word with its characters in lower case, each by itself (`unicode.LOWER`).

    `starts` and `stops` are of `find_words`; `others` is overwritten. A call among what is done for each word
    would count references at each: the words that need one come after.
    """
    count = 0
    for word in range(words):
        start, length = begin + starts[word], np.int64(stops[word]) - starts[word]
        first, second = _two_chunks(data, start, length)
        hashes[word] = _with_chunk(lowered(first), lowered(second), 1)
        others[count] = word
        count += (length > 16) | ((first | second) & _EACH_80 != 0)
    for place in range(count):
        word = others[place]
        hashes[word] = _lower_hash_any(data, begin + starts[word], begin + stops[word], lower)


@njit(nogil=True)
def _lower_hash_any(data, at, end, lower):
    hashed, chunk, size = np.uint64(0), np.uint64(0), 0
    while at < end:
        code, at = decode(data, at, end)
        encoded, width = encode_point(np.int64(lower[code]))
        for byte in range(width - 1, -1, -1):
            chunk |= (encoded >> np.uint64(8 * byte) & _FF) << np.uint64(8 * (size & 7))
            size += 1
            if size & 7 == 0:
                hashed, chunk = _with_chunk(hashed, chunk, (size >> 3) - 1), np.uint64(0)
    return _with_chunk(hashed, chunk, size >> 3) if size & 7 else hashed
