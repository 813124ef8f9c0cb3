"""Shingles: the overlapping n-grams of a document's words, and a hash of them that a kernel can roll.

A *word* is a maximal run of letters, numbers, combining marks and underscores, lower-cased character by character
(`curation.measure.unicode`). Letters of scripts that are written without spaces (ideographs, Hiragana, Thai ...)
are a word each, together with the marks that follow them. A *shingle* is n consecutive words joined by one space.

The hash of a shingle depends on its bytes alone (`shingle_hash64` is the reference):

* a word's bytes, cut in chunks of 8, each a big-endian integer x: h <- mix64(h ^ x), from h = GOLDEN. No two words
  of up to 8 bytes have the same hash, since mix64 is a bijection;
* a shingle of words w1 .. wn: mix64(w1 B^(n-1) + ... + wn) modulo 2^64. The sum rolls: one multiplication in, one
  out. B = 3 modulo 8 keeps B^i - B^j divisible by few powers of two, so swapped words change the high bits.

MinHash takes the upper 32 bits (`shingle_hash`); Jaccard verification takes all 64.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.key_kernels import mix64
from curation.measure.hashing import lowered
from curation.measure.intrinsics import beyond_mask, load64, swapped, trailing_zeros, word_mask
from curation.measure.unicode import FLAGS, LETTER, LOWER, MARK, NUMBER, SOLO
from curation.measure.utf8 import encode_point

GOLDEN = 0x9E3779B97F4A7C15
BASE = 0xD1342543DE82EF0B  # odd, 3 modulo 8
MASK64 = (1 << 64) - 1
WORD_FLAGS = LETTER | NUMBER | MARK
BLOCK = 2048  # words or shingles that a kernel holds at once

_GOLDEN, _BASE = np.uint64(GOLDEN), np.uint64(BASE)
_SEPARATOR, _BEYOND_ASCII = 0, 255
_ROOM = 80  # bytes after a place at which a block of 64 may be read, and eight bytes at each of them


def _ascii_table() -> np.ndarray:
    """For each byte: its lowercase if it belongs to a word, 0 if it separates, 255 if it is not ASCII."""
    table = np.full(256, _BEYOND_ASCII, np.uint8)
    for byte in range(128):
        character = chr(byte)
        table[byte] = ord(character.lower()) if character.isalnum() or character == "_" else _SEPARATOR
    table.flags.writeable = False
    return table


ASCII = _ascii_table()
TABLES = (ASCII, FLAGS, LOWER)


def words(text: str) -> list[bytes]:
    """The words of a text, lower-cased, as UTF-8. The reference for the kernels."""
    found: list[str] = []
    open_word, solo_word = False, False
    for character in text:
        flags = int(FLAGS[ord(character)])
        if not (flags & WORD_FLAGS or character == "_"):
            open_word = False
            continue
        solo = bool(flags & SOLO)
        if not open_word or solo or (solo_word and not flags & MARK):
            found.append("")
            open_word, solo_word = True, solo
        found[-1] += chr(LOWER[ord(character)])
    return [word.encode() for word in found]


def shingles(text: str, ngram: int) -> list[bytes]:
    """The shingles of a text in their order, repeats included; empty if it has fewer than `ngram` words."""
    found = words(text)
    return [b" ".join(found[at : at + ngram]) for at in range(len(found) - ngram + 1)]


def shingle_hash64(shingle: bytes) -> int:
    """The 64-bit hash of a shingle's bytes, as defined at the top of this file. The reference for the kernels."""
    total = 0
    for word in shingle.split(b" "):
        state = GOLDEN
        for at in range(0, len(word), 8):
            state = _mix64(state ^ int.from_bytes(word[at : at + 8], "big"))
        total = (total * BASE + state) & MASK64
    return _mix64(total)


def shingle_hash(shingle: bytes) -> int:
    """The upper 32 bits of `shingle_hash64`: the `hashfunc` under which datasketch gives our signatures."""
    return shingle_hash64(shingle) >> 32


def _mix64(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


@njit(inline="always")
def _decode(data, position, end):
    """(code point, width) of the character at a lead byte beyond ASCII; -1 where the bytes are no character."""
    lead = np.int64(data[position])
    width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if lead < 0xC0 or position + width > end:
        return np.int64(-1), 1
    point = lead & (0x7F >> width)
    for offset in range(1, width):
        point = (point << 6) | (np.int64(data[position + offset]) & 0x3F)
    return (point if point < 0x110000 else np.int64(-1)), width


@njit(inline="always")
def _hash_ascii(data, start, length):
    """The hash of an ASCII word of `length` bytes, after which eight more can be read."""
    state = _GOLDEN
    while length > 8:
        state = mix64(state ^ lowered(swapped(load64(data, start))))
        start += 8
        length -= 8
    chunk = swapped(load64(data, start)) >> np.uint64(64 - 8 * length)
    return mix64(state ^ lowered(chunk))


@njit(nogil=True, cache=True)
def hash_words(data, position, end, tables, out, first):
    """Write the hashes of the words of data[position:end] to out[first:], as many as fit.

    Returns (where in `out` the words end, where in `data` the next word begins). `tables` is TABLES.

    Blocks of 64 bytes tell where ASCII words are; a word with another character, or one longer than a block, is
    read character by character.
    """
    count, last = first, len(data) - _ROOM
    while position < end:
        if position <= last:
            ends = min(64, end - position)
            inside = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - ends)
            ascii_end = min(ends, trailing_zeros(beyond_mask(data, position)))
            known = word_mask(data, position) & inside
            goes_on = ascii_end < ends or position + ends < end  # what touches the end of the known bytes
            place, whole = 0, True
            while place < ascii_end:
                following = trailing_zeros(known >> np.uint64(place))
                place += following
                if place >= ascii_end:
                    break
                length = min(trailing_zeros(~(known >> np.uint64(place))), ascii_end - place)
                if goes_on and place + length == ascii_end:
                    whole = False
                    break
                if count == len(out):
                    return count, position + place
                out[count] = _hash_ascii(data, position + place, length)
                count += 1
                place += length
            place = min(place, ascii_end)
            position += place
            if ascii_end == 64 and (whole or place):
                continue
            if position == end:
                break
        count, position, full = _hash_any_words(data, position, end, tables, out, count, last)
        if full:
            break
    return count, position


@njit(nogil=True, cache=True)
def _hash_any_words(data, position, end, tables, out, first, last):
    """`hash_words` character by character, up to an ASCII character at or before `last` that ends a word.

    Returns a third value: whether `out` is full while there are words left.
    """
    ascii_table, flags, lower = tables
    count = first
    state, chunk, filled = _GOLDEN, np.uint64(0), 0
    open_word, solo_word = False, False
    while position < end:
        byte = ascii_table[data[position]]
        width, point, kind = 1, np.int64(-1), 0
        if byte == _BEYOND_ASCII:
            point, width = _decode(data, position, end)
            kind = flags[point] if point >= 0 else 0
            belongs = kind & WORD_FLAGS != 0
        else:
            belongs = byte != _SEPARATOR
        solo = kind & SOLO != 0
        if open_word and (not belongs or solo or (solo_word and kind & MARK == 0)):
            out[count] = mix64(state ^ chunk) if filled else state
            count += 1
            state, chunk, filled, open_word = _GOLDEN, np.uint64(0), 0, False
        if not belongs:
            position += width
            if byte == _SEPARATOR and position <= last:
                return count, position, False
            continue
        if not open_word:
            if count == len(out):
                return count, position, True
            open_word, solo_word = True, solo
        if point < 0:
            while byte != _SEPARATOR and byte != _BEYOND_ASCII:
                chunk = chunk << np.uint64(8) | np.uint64(byte)
                filled += 1
                if filled == 8:
                    state, chunk, filled = mix64(state ^ chunk), np.uint64(0), 0
                position += 1
                if position == end:
                    break
                byte = ascii_table[data[position]]
        else:
            encoded, length = encode_point(np.int64(lower[point]))
            for shift in range(8 * (length - 1), -1, -8):
                chunk = chunk << np.uint64(8) | (encoded >> np.uint64(shift) & np.uint64(0xFF))
                filled += 1
                if filled == 8:
                    state, chunk, filled = mix64(state ^ chunk), np.uint64(0), 0
            position += width
    if open_word:
        out[count] = mix64(state ^ chunk) if filled else state
        count += 1
    return count, position, False


@njit(nogil=True, cache=True)
def roll(word_hashes, count, ngram, out):
    """Write the 64-bit hash of each of the count - ngram + 1 shingles of word_hashes[:count] to `out`."""
    leaving = np.uint64(1)
    for _ in range(ngram):
        leaving *= _BASE
    total = np.uint64(0)
    for at in range(ngram - 1):
        total = total * _BASE + word_hashes[at]
    before = np.uint64(0)
    for at in range(count - ngram + 1):
        total = total * _BASE + word_hashes[at + ngram - 1] - before * leaving
        before = word_hashes[at]
        out[at] = mix64(total)
