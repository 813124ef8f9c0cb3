"""Splitting a chunk of ASCII as spaCy's English tokenizer does, by masks: a bit a byte of it.

The rules are those of `curation.measure.spacy_chunk` and `curation.measure.spacy_affixes`, which take any chunk.
Here a rule looks at all places of a chunk at once, and what follows takes a step a token, not a step a byte.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from curation.compiled import njit
from curation.measure.intrinsics import (
    any_byte_mask,
    capital_mask,
    comma_mask,
    digit_mask,
    end_mask,
    leading_zeros,
    letter_mask,
    load64,
    ones,
    punctuation_mask,
    trailing_zeros,
)
from curation.measure.spacy_affixes import APOSTROPHE, DOLLAR, LONGEST_UNIT, PLUS, STOP
from curation.measure.spacy_english import BEFORE_STOP, PREFIX, SUFFIX, UNIT_END
from curation.measure.spacy_merge import LONGEST_STRING
from curation.measure.spacy_strings import find_string, hash_short, special_case
from curation.measure.spacy_url import is_url

_ALL, _0, _1, _2, _3 = (np.uint64(number) for number in ((1 << 64) - 1, 0, 1, 2, 3))
stop_mask, hyphen_mask, tilde_mask, number_sign_mask = map(any_byte_mask, (b".", b"-", b"~", b"#"))
_quote_mask = any_byte_mask(b"\"',`")
_sign_mask = any_byte_mask(b"+-*^")
_relation_mask = any_byte_mask(b":<=>/")
_url_end_mask = any_byte_mask(b":/?#")

# Of the bytes of a chunk: letters, those in upper case, digits, punctuation (general category P), ends of
# sentences, and what the rules for infixes and URLs look at.
Masks = namedtuple(
    "Masks", "letters capitals digits punctuation ends stops hyphens commas quotes signs relations tildes url_ends"
)


@njit(nogil=True, forceinline=True, _nrt=False)
def chunk_masks(data, at, inside):
    """The masks of data[at : at + 64], of the bytes of `inside`."""
    return Masks(
        letter_mask(data, at) & inside,
        capital_mask(data, at) & inside,
        digit_mask(data, at) & inside,
        punctuation_mask(data, at) & inside,
        end_mask(data, at) & inside,
        stop_mask(data, at) & inside,
        hyphen_mask(data, at) & inside,
        comma_mask(data, at) & inside,
        _quote_mask(data, at) & inside,
        _sign_mask(data, at) & inside,
        _relation_mask(data, at) & inside,
        tilde_mask(data, at) & inside,
        _url_end_mask(data, at) & inside,
    )


@njit(nogil=True, inline="always", _nrt=False)
def bit(place):
    return _1 << np.uint64(place)


@njit(nogil=True, inline="always", _nrt=False)
def _has(mask, place):
    return (mask >> np.uint64(place) & _1) != _0


@njit(nogil=True, inline="always", _nrt=False)
def between(low, high):
    """The bits [low, high), high below 64."""
    return bit(high) - bit(low)


@njit(nogil=True, forceinline=True, _nrt=False)
def _special(data, low, high, strings):
    """The number of the special case data[low:high], below 0 if it is none."""
    if low >= high or high - low > LONGEST_STRING:
        return np.int64(-1)
    return special_case(hash_short(load64(data, low), load64(data, low + 8), high - low), strings)


@njit(nogil=True, forceinline=True, _nrt=False)
def split_ascii(data, at, length, masks, tables, chunk):
    """The mask of where the tokens of data[at : at + length] end: bit k stands for an end before byte k.

    The chunk is ASCII, of up to 63 bytes, and data has 16 bytes more. `chunk` is scratch for as many.
    """
    strings, classes = tables.strings, tables.classes
    low, high, before, special = 0, length, -1, np.int64(-1)
    ends = bit(length)
    while low < high and high - low != before:
        special = _special(data, at + low, at + high, strings)
        if special >= 0:
            break
        before = high - low
        prefix = _prefix_length(data, at, low, high, masks, classes)
        if prefix:
            special = _special(data, at + low + prefix, at + high, strings)
            if special >= 0:
                low += prefix
                ends |= bit(low)
                break
        suffix = _suffix_length(data, at, low + prefix, high, masks, classes, strings)
        if suffix:
            special = _special(data, at + low, at + high - suffix, strings)
            if special >= 0:
                high -= suffix
                ends |= bit(high)
                break
        low += prefix
        high -= suffix
        ends |= bit(low) | bit(high)
    if low < high:
        if special >= 0:
            for k in range(strings.rule_from[special], strings.rule_from[special + 1]):
                ends |= bit(low + strings.rule_ends[k])
        elif not (_may_be_url(masks, low, high) and _is_url(data, at, low, high, classes, chunk)):
            ends |= _infix_ends(masks, low, high)
    return ends & ~_1


@njit(nogil=True, forceinline=True, _nrt=False)
def _prefix_length(data, at, low, high, masks, classes):
    code = data[at + low]
    if code == STOP:
        stops = min(trailing_zeros(~(masks.stops >> np.uint64(low))), high - low)
        return stops if stops > 1 else 0
    if code == PLUS:
        return 0 if low + 1 < high and _has(masks.digits, low + 1) else 1
    if classes[code] & PREFIX:
        return 1
    if low + 1 < high and data[at + low + 1] == DOLLAR and (code == 0x41 or code == 0x43):  # A$ and C$
        return 2
    dollars = code == 0x55 and low + 2 < high and data[at + low + 1] == 0x53 and data[at + low + 2] == DOLLAR
    return 3 if dollars else 0  # US$


@njit(nogil=True, forceinline=True, _nrt=False)
def _suffix_length(data, at, low, high, masks, classes, strings):
    if high <= low:
        return 0
    code = data[at + high - 1]
    if code == STOP:
        return _stop_suffix(data, at, low, high, masks, classes)
    kind, length = classes[code], 0
    if kind & SUFFIX:
        length = 1
    elif (code == 0x73 or code == 0x53) and high - 2 >= low:  # 's and 'S
        length = 2 if data[at + high - 2] == APOSTROPHE else 0
    if kind & UNIT_END:
        first = max(low, high - 1 - LONGEST_UNIT)  # of what may be the last digit before a unit
        digits = masks.digits & between(first, high - 1)
        while digits:
            start = 64 - leading_zeros(digits)
            digits &= ~bit(start - 1)
            word, second = load64(data, at + start), load64(data, at + start + 8)
            number = find_string(hash_short(word, second, high - start), strings)
            if number >= 0 and strings.unit[number]:
                length = max(length, high - start)
    return length


@njit(nogil=True, forceinline=True, _nrt=False)
def _stop_suffix(data, at, low, high, masks, classes):
    stops = min(leading_zeros(~(masks.stops << np.uint64(64 - high))), high - low)
    if stops > 1:
        return stops
    if high - 2 < low:
        return 0
    if classes[data[at + high - 2]] & BEFORE_STOP:
        return 1
    return 1 if high - 3 >= low and (masks.capitals >> np.uint64(high - 3) & _3) == _3 else 0


@njit(nogil=True, forceinline=True, _nrt=False)
def _may_be_url(masks, low, high):
    """Whether what a URL must hold is there: a last label and what may follow it, or the stops of an address."""
    inside = between(low, high)
    lower = masks.letters & ~masks.capitals & inside
    labels = (masks.stops & inside) << _1 & lower & lower >> _1
    behind = (lower + labels) & ~lower & (masks.url_ends | bit(high))
    digits = masks.digits & inside
    return behind != _0 or ones(masks.stops & digits << _1 & digits >> _1) >= 3


@njit(nogil=True, _nrt=False)
def _is_url(data, at, low, high, classes, chunk):
    for place in range(low, high):
        code = np.int32(data[at + place])
        chunk.codes[place], chunk.classes[place] = code, classes[code]
    return is_url(chunk.codes, chunk.classes, low, high)


@njit(nogil=True, forceinline=True, _nrt=False)
def _infix_ends(masks, low, high):
    """Where the tokens of [low, high), which has neither prefix nor suffix, end at infixes.

    No two infixes touch: each but for runs of stops needs a letter, a digit or a quote before it. And none is at
    `low`: there is no character before it, and a run of stops were a prefix.
    """
    inside = between(low, high)
    letters, digits, stops = masks.letters & inside, masks.digits & inside, masks.stops & inside
    quotes, hyphens = masks.quotes & inside, masks.hyphens & inside
    capitals = masks.capitals & letters
    after_both = (letters | digits) << _1
    runs = stops & (stops << _1 | stops >> _1)  # of two and more
    run_starts = runs & ~(runs << _1)
    run_ends = runs << _1 & ~runs
    one = masks.signs & digits << _1 & (digits | hyphens) >> _1
    one |= stops & ~runs & (letters & ~capitals | quotes) << _1 & (capitals | quotes) >> _1
    one |= masks.commas & letters << _1 & letters >> _1
    one |= (masks.relations | masks.tildes | hyphens) & after_both & letters >> _1
    two = hyphens & ~one & after_both & hyphens >> _1
    three = two & hyphens >> _2 & letters >> _3
    two &= letters >> _2
    return run_starts | run_ends | one | one << _1 | two | two << _2 | three | three << _3
