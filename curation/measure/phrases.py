"""The phrases that Dolma 3 cuts out of short lines: "items in cart", "Read more..." and "Sign-in"."""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.intrinsics import sequences_mask, trailing_zeros
from curation.measure.next_word import next_word
from curation.measure.spans import add_span
from curation.measure.unicode import SPACE
from curation.measure.utf8 import block_at, decode

MOST_WORDS = 10  # Unicode words of a line that phrases are cut from
_PHRASES = ("items in cart", "Read more...", "Sign-in")
CART, READ_MORE, SIGN_IN = range(len(_PHRASES))  # in any place, at the end, at the beginning
NOTHING, A_SPACE = range(2)  # what they are replaced by


def word_bytes(words: tuple[str, ...]) -> np.ndarray:
    """Words as rows of bytes (uint8), each ended by a zero."""
    return np.array([[*word.encode().ljust(max(map(len, words)) + 1, b"\0")] for word in words], np.uint8)


PHRASES = word_bytes(_PHRASES)
STEP = 60  # bytes of a block of 64 at which the first bytes of a phrase are looked for
_HERE, _1 = np.uint64((1 << STEP) - 1), np.uint64(1)
_cart_mask = sequences_mask([_PHRASES[CART][:4].encode()])


@njit(nogil=True)
def _holds(data, at, end, words, number):
    """The length of word `number` if it stands at byte `at`, else 0. Case counts."""
    place = 0
    while words[number, place]:
        if at + place >= end or data[at + place] != words[number, place]:
            return 0
        place += 1
    return place


@njit(nogil=True)
def _length(words, number):
    length = 0
    while words[number, length]:
        length += 1
    return length


@njit(nogil=True)
def _has_few_words(data, at, end, flags):
    for _ in range(MOST_WORDS + 1):
        start, at = next_word(data, at, end, flags)
        if start == end:
            return True
    return False


@njit(nogil=True)
def _space_before(data, low, at, flags):
    """Where the whitespace character that ends at byte `at` begins; `at` if there is none after `low`."""
    for back in range(1, 4):
        if at - back < low:
            return at
        if data[at - back] & 0xC0 != 0x80:
            code, following = decode(data, at - back, at)
            return at - back if following == at and flags[code] & SPACE else at
    return at


@njit(nogil=True)
def _space_after(data, at, high, flags):
    if at < high:
        code, following = decode(data, at, high)
        if flags[code] & SPACE:
            return following
    return at


@njit(nogil=True)
def _is_blank(data, at, end, flags):
    while at < end:
        code, at = decode(data, at, end)
        if flags[code] & SPACE == 0:
            return False
    return True


@njit(nogil=True)
def _next_cart(data, at, last, stop, phrases):
    """Where the next phrase CART begins before `last`, from `at` on; `last` without one.

    A loop of its own: in one that may give another table each turn would count references to it.
    """
    while at < last:
        place, shift = block_at(data, at)
        hits = _cart_mask(data, place) >> shift & _HERE
        while hits:
            hit = at + trailing_zeros(hits)
            if hit >= last or _holds(data, hit, stop, phrases, CART):
                return min(hit, last)
            hits &= hits - _1
        at += STEP
    return last


@njit(nogil=True)
def cut_phrases(data, begin, start, stop, flags, phrases, rules, table, known):
    """Write the spans of the phrases in the line from `start` to `stop`; returns the table, the number of spans
    now known, and the rule by which the line goes if nothing visible is left, else -1.

    In the order of the filter: "items in cart" with a space on each side, then the end, then the beginning, each
    taking along one whitespace character that stands next to it, also the one put in for the first. `rules` is
    the number of the rule of the first phrase; the others follow.
    """
    head = _holds(data, start, stop, phrases, SIGN_IN)
    last = stop - _length(phrases, READ_MORE)
    tail = 0
    if last >= start:
        tail = _holds(data, last, stop, phrases, READ_MORE)
    if not tail:
        last = stop
    first, done, carts = known, start + head, 0
    if head:  # to be ended below
        table = add_span(table, known, start - begin, start + head - begin, NOTHING, rules + SIGN_IN)
        known += 1
    at = _next_cart(data, done, last, stop, phrases)
    while at < last:
        low = _space_before(data, done, at, flags)
        done = _space_after(data, at + _length(phrases, CART), stop, flags)
        table = add_span(table, known, low - begin, done - begin, A_SPACE, rules + CART)
        known += 1
        carts += 1
        at = _next_cart(data, max(at + 1, done), last, stop, phrases)
    if known == first and not tail:
        return table, known, -1
    if not _has_few_words(data, start, stop, flags):
        return table, first, -1
    rule = CART if carts else READ_MORE if tail else SIGN_IN
    if tail:
        low = _space_before(data, done, last, flags)
        if carts and done == last:
            table[known - 1, 2] = NOTHING
        table = add_span(table, known, low - begin, stop - begin, NOTHING, rules + READ_MORE)
        known += 1
    if head:
        high = table[first + 1, 0] + begin if known > first + 1 else stop
        if carts and high == start + head:
            table[first + 1, 2] = NOTHING
        table[first, 1] = _space_after(data, start + head, high, flags) - begin
    at = start
    for span in range(first, known):
        if not _is_blank(data, at, begin + table[span, 0], flags):
            return table, known, -1
        at = begin + table[span, 1]
    if not _is_blank(data, at, stop, flags):
        return table, known, -1
    return table, first, rules + rule
