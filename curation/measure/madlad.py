"""Sentences that look wrong: the rules of MADLAD-400 (Kudugunta et al. 2023, section 2.3 and appendix) as Dolma 3
applies them (allenai/datamap-rs, `madlad400_sentence_annotator`): the group `madlad`.

A sentence is what lies between runs of `.`, `!`, `?` that whitespace follows; one of whitespace alone is none.
Rule 2, list case: of at least 12 Unicode words more than half begin with an uppercase letter. Rule 3: fewer than
20 characters or more than 500. Rule 4: more than a fifth of the characters are of the technical ones. Rule 5: it
holds one of the strings and patterns of `curation.measure.cursed`. Dolma 3 uses 2 and 5; rule 1, a language other
than the document's, is not measured. The tool counts bytes for rules 3 and 4; here they are characters.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from curation.compiled import njit
from curation.measure.cursed import (
    ALL,
    LONGEST,
    NEEDLES,
    ends_cursed,
    holds_pattern,
    rare_mask,
)
from curation.measure.group import Columns, Group
from curation.measure.intrinsics import (
    any_byte_mask,
    beyond_mask,
    capital_mask,
    comma_mask,
    digit_mask,
    end_mask,
    going_on_mask,
    letter_mask,
    middle_mask,
    ones,
    pairs_mask,
    space_mask,
    trailing_zeros,
    word_mask,
)
from curation.measure.needles import holds_needle
from curation.measure.next_word import next_word
from curation.measure.unicode import FLAGS, SPACE, UPPER
from curation.measure.utf8 import BLOCK, block_at, decode, text_buffers

LEAST_WORDS = 12  # of a sentence that list case is looked for in
SHORTEST, LONGEST_SENTENCE = 20, 500  # characters
TECHNICAL = b"0123456789{}+/()>"

COUNTS = (
    "madlad_sentences",
    "madlad_list_case",  # rule 2
    "madlad_odd_length",  # rule 3
    "madlad_technical",  # rule 4
    "madlad_cursed",  # rule 5
)

technical_mask = any_byte_mask(TECHNICAL)
_NEXT = (0x80, 0xBF)
# Where characters begin none of which is uppercase, in scripts that much text is written in.
lower_mask = pairs_mask(
    ((0xC2, 0xC2), _NEXT),  # U+0080 to U+00BF
    ((0xC3, 0xC3), (0x9F, 0xBF)),  # Latin
    ((0xCE, 0xCE), (0xAC, 0xBF)),  # Greek
    ((0xD0, 0xD0), (0xB0, 0xBF)),  # Cyrillic
    ((0xD1, 0xD1), (0x80, 0x9F)),
    ((0xD7, 0xE0), _NEXT),  # Hebrew to Tibetan
    ((0xE2, 0xE2), (0x80, 0x80)),  # punctuation
    ((0xE3, 0xE9), _NEXT),  # kana and ideographs
    ((0xEB, 0xED), _NEXT),  # Hangul
)

STEP = 60  # bytes of a block that are counted: what begins in them is known from the rest
_HERE, _1, _2, _4, _5, _8, _10 = (np.uint64(number) for number in ((1 << STEP) - 1, 1, 2, 4, 5, 8, 10))
_59, _60 = np.uint64(STEP - 1), np.uint64(STEP)


def _measure(documents: pa.Table, texts: pa.LargeStringArray) -> Columns:
    data, offsets = text_buffers(texts)
    out = np.zeros((len(COUNTS) + 1, len(texts)), np.int64)
    _count_sentences(data, offsets, FLAGS, NEEDLES, out)
    columns = {name: pa.array(counts, pa.uint64()) for name, counts in zip(COUNTS, out[:-1], strict=True)}
    share = out[-1] / np.maximum(out[0], 1)
    return columns | {"madlad_flagged_share": pa.array(share, mask=out[0] == 0)}


GROUP = Group(
    "madlad",
    # The share is of the sentences that rule 2 or rule 5 flags; null without sentences.
    {**dict.fromkeys(COUNTS, pa.uint64()), "madlad_flagged_share": pa.float64()},
    _measure,
    edited=True,
)


@njit(nogil=True)
def _sentence_end(data, at, end, flags):
    """Where the sentence that begins at byte `at` ends, and where the next one begins."""
    while at < end:
        place, shift = block_at(data, at)
        known = min(BLOCK, end - at)
        marks = end_mask(data, place) >> shift & ALL >> np.uint64(BLOCK - known)
        past = known
        while marks:
            stop = following = at + trailing_zeros(marks)
            while following < end and (
                data[following] == 0x2E or data[following] == 0x21 or data[following] == 0x3F
            ):
                following += 1
            after = _after_spaces(data, following, end, flags)
            if after > following:
                return stop, after
            past = max(past, following - at)
            if following - at >= BLOCK:
                break
            marks &= ALL << np.uint64(following - at)
        at += past
    return end, end


@njit(nogil=True)
def _after_spaces(data, at, end, flags):
    while at < end:
        code, following = decode(data, at, end)
        if flags[code] & SPACE == 0:
            break
        at = following
    return at


@njit(nogil=True)
def _is_blank(data, at, end, flags):
    while at < end:
        code, at = decode(data, at, end)
        if flags[code] & SPACE == 0:
            return False
    return True


@njit(nogil=True)
def _is_list_case(data, at, end, flags):
    words, capitals = 0, 0
    while True:
        start, at = next_word(data, at, end, flags)
        if start == end:
            return words >= LEAST_WORDS and 2 * capitals > words
        words += 1
        code, _ = decode(data, start, at)
        capitals += (flags[code] & UPPER) != 0


@njit(nogil=True)
def _judge(data, start, stop, flags, needles):
    """(characters, technical ones, whether it is list case, whether it is cursed) of a sentence.

    A block of 64 bytes at a time, of which the last few only show how what lies before them goes on. Where no
    character beyond ASCII and no underscore is, `words` and `capitals` are exact; elsewhere there are at least so
    many words, and at most `capitals` and `others` of them in upper case. What may be of a pattern, `low` to
    `high`, is looked at more closely.
    """
    chars, marks, words, capitals, others = 0, 0, 0, 0, 0
    odd, cursed = False, ends_cursed(data, start, stop, flags)
    letter_before, digit_before, word_before, beyond_before = (
        np.uint64(0),
        np.uint64(0),
        np.uint64(0),
        np.uint64(0),
    )
    low, high, at = stop, start, start
    while at < stop:
        place, shift = block_at(data, at)
        inside = ALL >> np.uint64(BLOCK - min(BLOCK, stop - at))
        here = inside & _HERE
        beyond = beyond_mask(data, place) >> shift & inside
        letters = letter_mask(data, place) >> shift & inside
        digits = digit_mask(data, place) >> shift & inside
        middles = middle_mask(data, place) >> shift & inside
        commas = comma_mask(data, place) >> shift & inside
        spaces = space_mask(data, place) >> shift & inside
        inner = word_mask(data, place) >> shift & inside
        firsts = here & ~(going_on_mask(data, place) >> shift)
        chars += ones(firsts)
        marks += ones(technical_mask(data, place) >> shift & here)

        odd |= (beyond | inner & ~(letters | digits)) != 0
        inner |= middles & (letters << _1 | letter_before) & letters >> _1
        inner |= (middles | commas) & (digits << _1 | digit_before) & digits >> _1
        begins = here & ~(inner << _1 | word_before) & (letters | digits)
        words += ones(begins & ~(beyond << _1 | beyond << _2 | beyond_before))
        capitals += ones(begins & capital_mask(data, place) >> shift)
        others += ones(beyond & firsts & ~(inner << _1 | word_before | lower_mask(data, place) >> shift))
        letter_before, digit_before, word_before = letters >> _59 & _1, digits >> _59 & _1, inner >> _59 & _1
        beyond_before = ((beyond & here) << _1 | (beyond & here) << _2) >> _60

        hits = rare_mask(data, place) >> shift & here
        while hits and not cursed:
            cursed = holds_needle(data, at + trailing_zeros(hits), start, stop, needles)
            hits &= hits - _1
        # Four spaces or two commas as far apart as in a pattern; those of ASCII have such within a block.
        four, five = spaces & spaces >> _4, spaces & spaces >> _5
        two = spaces & ~(spaces >> _1) & spaces >> _2
        close = beyond | four & four >> _8 | five & five >> _10 | two & two >> _2 & two >> _4
        if (close | commas & spaces >> _1 & commas >> _4) & here and not cursed:
            reach = 4 * LONGEST if beyond else LONGEST
            if at - reach > high:
                cursed = holds_pattern(data, low, high, stop)
                low = at - reach
            low = max(start, min(low, at - reach))
            high = max(high, min(stop, at + BLOCK + reach))
        at += STEP
    cursed = cursed or (low < high and holds_pattern(data, low, high, stop))
    if 2 * (capitals + others) <= words:
        list_case = False
    elif odd:
        list_case = stop - start >= 2 * LEAST_WORDS - 1 and _is_list_case(data, start, stop, flags)
    else:
        list_case = words >= LEAST_WORDS and 2 * capitals > words
    return chars, marks, list_case, cursed


@njit(nogil=True, cache=True)
def _count_sentences(data, offsets, flags, needles, out):
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        while at < end:
            start = at
            stop, at = _sentence_end(data, at, end, flags)
            if _after_spaces(data, start, stop, flags) == stop:
                continue
            chars, marks, list_case, cursed = _judge(data, start, stop, flags, needles)
            out[0, document] += 1
            out[1, document] += list_case
            out[2, document] += chars < SHORTEST or chars > LONGEST_SENTENCE
            out[3, document] += 5 * marks > chars
            out[4, document] += cursed
            out[5, document] += list_case or cursed
