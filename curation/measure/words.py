"""Statistics of whitespace words and of symbols: the definitions of Dolma 3's rules (steps 4 to 8 of its filters).

A whitespace word is what `text.split()` gives. Unicode words, which repetition is measured on, are another thing:
see `curation.measure.repetition`.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.intrinsics import (
    any_byte_mask,
    beyond_mask,
    leading_zeros,
    letter_mask,
    ones,
    sequences_mask,
    space_mask,
    trailing_zeros,
    white_mask,
)
from curation.measure.unicode import FLAGS, LETTER, SPACE
from curation.measure.utf8 import BLOCK, block_at, decode

COUNTS = (
    "whitespace_words",
    "word_chars",  # characters of them
    "alpha_words",  # those with at least one letter
    "stop_words",  # occurrences of STOP_WORDS, in any case, nothing stripped
    "symbols",  # "#", "..." and ". . ." (each found without overlap), and …
    "spaced_ellipses",  # ". . .": three words to split(), one to the symbol rule
)
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Gopher (Rae et al. 2021), table A1


stops_2, stops_3, stops_4 = (
    sequences_mask([word.encode() for word in STOP_WORDS if len(word) == length], any_case=True)
    for length in (2, 3, 4)
)
dot_mask, number_sign_mask = map(any_byte_mask, (b".", b"#"))

STEP = 56  # bytes of a block of 64 that are counted: what begins in them ends within the rest
_ALL, _1, _2, _3, _4 = (np.uint64(number) for number in ((1 << 64) - 1, 1, 2, 3, 4))


def word_counts(data: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """The int64 counts named in COUNTS, each of shape (n,)."""
    out = np.zeros((len(COUNTS), len(offsets) - 1), np.int64)
    _count_words(data, offsets, FLAGS, out)
    return dict(zip(COUNTS, out, strict=True))


@njit(nogil=True)
def _mark_beyond(data, at, end, flags, beyond, firsts, white, letters):
    """Enter the characters beyond ASCII of a block in its masks.

    Returns the masks of where characters begin, of white space and of letters, how many bytes a character that
    begins among the first STEP goes on past them, and how many … there are in these.
    """
    past, ellipses = 0, 0
    while beyond:
        bit = trailing_zeros(beyond)
        code, following = decode(data, at + bit, end)
        width = following - at - bit
        bytes_of_it = (_1 << np.uint64(width)) - _1 << np.uint64(bit)
        beyond &= ~bytes_of_it
        firsts &= ~(bytes_of_it & bytes_of_it << _1)
        if flags[code] & SPACE:
            white |= bytes_of_it
        elif flags[code] & LETTER:
            letters |= _1 << np.uint64(bit)
        if bit < STEP:
            past = max(0, bit + width - STEP)
            ellipses += code == 0x2026
    return firsts, white, letters, past, ellipses


@njit(nogil=True)
def _ellipses(dots, here, spaces, at, dots_from, spaced_from):
    """How many "..." and ". . ." begin `here`, none in another of its kind, and where the next ones may begin."""
    plain, spaced = 0, 0
    threes = here & dots & dots >> _1 & dots >> _2
    while threes:
        place = at + trailing_zeros(threes)
        threes &= threes - _1
        if place >= dots_from:
            plain += 1
            dots_from = place + 3
    spreads = here & dots & spaces >> _1 & dots >> _2 & spaces >> _3 & dots >> _4
    while spreads:
        place = at + trailing_zeros(spreads)
        spreads &= spreads - _1
        if place >= spaced_from:
            spaced += 1
            spaced_from = place + 5
    return plain, spaced, dots_from, spaced_from


@njit(nogil=True, cache=True)
def _count_words(data, offsets, flags, out):
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        words = word_chars = alpha_words = stops = symbols = spaced = 0
        dots_from = spaced_from = at  # where the next "..." and ". . ." may begin
        open_word, open_alpha = np.uint64(0), np.uint64(0)  # 1: a word goes on here; it has a letter already
        while at < end:
            place, shift = block_at(data, at)
            known = min(BLOCK, end - at)
            inside = _ALL >> np.uint64(BLOCK - known)
            beyond = beyond_mask(data, place) >> shift & inside
            white = white_mask(data, place) >> shift & inside
            letters = letter_mask(data, place) >> shift & inside
            firsts, past = inside, 0
            if beyond:
                firsts, white, letters, past, ellipses = _mark_beyond(
                    data, at, end, flags, beyond, firsts, white, letters
                )
                symbols += ellipses
            counted = min(known, STEP + past)
            here = _ALL >> np.uint64(BLOCK - counted)
            white |= ~inside  # the text ends as a word does
            inner = ~white & here
            begins = inner & ~(inner << _1 | open_word)
            words += ones(begins)
            word_chars += ones(inner & firsts)
            stops += ones(begins & stops_2(data, place) >> shift & inside >> _1 & white >> _2)
            stops += ones(begins & stops_3(data, place) >> shift & inside >> _2 & white >> _3)
            stops += ones(begins & stops_4(data, place) >> shift & inside >> _3 & white >> _4)
            # From each word's beginning a carry goes up through what is no letter: it ends at the first letter.
            letters &= inner
            others = inner & ~letters
            waiting = begins | (inner & open_word & ~open_alpha)
            alpha_words += ones((waiting | (others + (waiting & others)) & ~others) & letters)
            low = np.uint64(BLOCK - leading_zeros(here & ~inner))  # where the last word begins, if one is open
            alpha = letters >> low != 0 or (low == 0 and open_alpha != 0)
            open_word, open_alpha = inner >> np.uint64(counted - 1), np.uint64(alpha)

            symbols += ones(number_sign_mask(data, place) >> shift & here)
            dots = dot_mask(data, place) >> shift & inside
            if dots & dots >> _2 & here:
                spaces = space_mask(data, place) >> shift & inside
                threes, spreads, dots_from, spaced_from = _ellipses(dots, here, spaces, at, dots_from, spaced_from)
                symbols += threes + spreads
                spaced += spreads
            at += counted
        out[0, document] = words
        out[1, document] = word_chars
        out[2, document] = alpha_words
        out[3, document] = stops
        out[4, document] = symbols
        out[5, document] = spaced
