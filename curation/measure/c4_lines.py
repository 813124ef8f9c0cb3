"""C4's rules for lines as datatrove 0.10.1 applies them (C4QualityFilter).

A line is what `str.splitlines` gives, stripped. In this order: a line with a word of more than 1000 characters
goes; citations ([12], [], [edit], [citation needed]) are cut out; a line that then does not end in . ? ! " or '
goes, and so does one that ends in three full stops; one of fewer than 3 words goes, citations counted; "lorem
ipsum" drops the document; a line with "javascript" goes; an opening curly bracket drops the document; a line with
one of six phrases about policies goes. "With" means in any case of ASCII letters.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.intrinsics import any_byte_mask, sequences_mask, trailing_zeros
from curation.measure.spacy_english import BLANK, IS_DIGIT
from curation.measure.utf8 import decode

LONGEST_WORD = 1000  # characters
LEAST_WORDS = 3
RULES = (
    "c4_long_word",
    "c4_no_terminal_punctuation",
    "c4_few_words",
    "c4_javascript",
    "c4_policy",
    "c4_citation",
    "c4_blank",  # around lines, and line breaks that become newlines
)
KEPT, LONG_WORD, NO_TERMINAL, FEW_WORDS, JAVASCRIPT, POLICY, LOREM_IPSUM, CURLY_BRACKET = range(-1, 7)
CITATION, BLANKS = 5, 6  # of RULES, which LOREM_IPSUM and CURLY_BRACKET are none of
NOTHING, NEWLINE = 0, 1
BRACKET, CLOSING_BRACKET, CURLY, LINE_FEED = 0x5B, 0x5D, 0x7B, 0x0A


def _pad(words: tuple[str, ...]) -> np.ndarray:
    """Words as rows of bytes, each with a zero behind."""
    rows = np.zeros((len(words), max(map(len, words)) + 1), np.uint8)
    for row, word in zip(rows, words, strict=True):
        row[: len(word)] = list(word.encode())
    rows.flags.writeable = False
    return rows


LOREM = _pad(("lorem ipsum",))
SCRIPT = _pad(("javascript",))
POLICIES = _pad(
    ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
)
NOTES = _pad(("edit]", "citation needed]"))
_bits_mask = sequences_mask((b"jav", b"oki", b"icy", b"f u", b"psu", b"{"), any_case=True)  # and a few bytes more
_bracket_mask = any_byte_mask(b"[")


@njit(nogil=True, _nrt=False)
def _starts(data, at, end, word):
    length = 0
    while word[length] and at + length < end:
        byte = data[at + length]
        if (byte | 0x20 if 0x41 <= byte <= 0x5A else byte) != word[length]:
            return False
        length += 1
    return word[length] == 0


@njit(nogil=True, _nrt=False)
def contains(data, start, end, words):
    """Whether one of `words`, lower case, stands in data[start:end] in any case."""
    for at in range(start, end):
        byte = data[at]
        lower = byte | 0x20 if 0x41 <= byte <= 0x5A else byte
        for number in range(len(words)):
            if lower == words[number, 0] and _starts(data, at, end, words[number]):
                return True
    return False


@njit(nogil=True, _nrt=False)
def may_hold(data, start, end):
    """Whether a line holds a bit of a word looked for: one quick pass, in vectors of bytes, says no for most."""
    part = data[start:end]
    found, case = np.uint8(0), np.uint8(0x20)
    for at in range(len(part) - 2):
        first, second, third = (
            np.uint8(part[at] | case),
            np.uint8(part[at + 1] | case),
            np.uint8(part[at + 2] | case),
        )
        hit = (first == np.uint8(0x6A)) & (second == np.uint8(0x61)) & (third == np.uint8(0x76))  # jav
        hit |= (first == np.uint8(0x6F)) & (second == np.uint8(0x6B)) & (third == np.uint8(0x69))  # oki
        hit |= (first == np.uint8(0x69)) & (second == np.uint8(0x63)) & (third == np.uint8(0x79))  # icy
        hit |= (first == np.uint8(0x66)) & (second == np.uint8(0x20)) & (third == np.uint8(0x75))  # f u
        hit |= (first == np.uint8(0x70)) & (second == np.uint8(0x73)) & (third == np.uint8(0x75))  # psu
        hit |= part[at] == np.uint8(CURLY)
        found |= np.uint8(hit)
    for at in range(max(0, len(part) - 2), len(part)):
        found |= np.uint8(part[at] == CURLY)
    return found != 0


@njit(nogil=True, _nrt=False)
def next_bit(data, at, end):
    """Where `may_hold` may find something first in data[at:end], `end` if it will not."""
    while at < end:
        if at + 64 > len(data):
            return at
        found = _bits_mask(data, at)
        if found:
            return at + trailing_zeros(found)
        at += 64 - 2  # a bit may begin in one block and end in the next
    return end


@njit(nogil=True, _nrt=False)
def next_bracket(data, at, end):
    """Where the first opening bracket of data[at:end] may be, `end` if there is none."""
    while at < end:
        if at + 64 > len(data):
            return at
        found = _bracket_mask(data, at)
        if found:
            return at + trailing_zeros(found)
        at += 64
    return end


@njit(nogil=True, _nrt=False)
def citation_end(data, at, end, classes):
    """Where the citation that begins at byte `at` (an opening bracket) ends, -1 if it is none. Case counts."""
    for number in range(len(NOTES)):
        length = 0
        while NOTES[number, length] and at + 1 + length < end and data[at + 1 + length] == NOTES[number, length]:
            length += 1
        if NOTES[number, length] == 0:
            return at + 1 + length
    at += 1
    while at < end:
        code, following = decode(data, at, end)
        if not classes[code] & IS_DIGIT:
            break
        at = following
    return at + 1 if at < end and data[at] == CLOSING_BRACKET else -1


@njit(nogil=True, _nrt=False)
def without_citations(data, start, end, classes, out):
    """Copy data[start:end] to `out` without its citations; returns the bytes written."""
    at, written = start, 0
    while at < end:
        stop = citation_end(data, at, end, classes) if data[at] == BRACKET else -1
        if stop >= 0:
            at = stop
            continue
        out[written] = data[at]
        written += 1
        at += 1
    return written


@njit(nogil=True, _nrt=False)
def has_bracket(data, start, end):
    brackets = False
    for at in range(start, end):
        brackets |= data[at] == BRACKET
    return brackets


@njit(nogil=True, _nrt=False)
def longest_word(data, start, end, classes):
    """The characters of the longest word of data[start:end]."""
    longest, length, at = 0, 0, start
    while at < end:
        code, at = decode(data, at, end)
        length = 0 if classes[code] & BLANK else length + 1
        longest = max(longest, length)
    return longest


@njit(nogil=True, _nrt=False)
def stripped(data, start, end, classes):
    """Where data[start:end] begins and ends without the white space around it; (end, end) where all is that."""
    first, last, at = end, end, start
    while at < end:
        code, following = decode(data, at, end)
        if not classes[code] & BLANK:
            first = min(first, at)
            last = following
        at = following
    return first, last


@njit(nogil=True, _nrt=False)
def ends_well(data, start, end):
    """Whether a stripped line ends in terminal punctuation, and not in three full stops."""
    last = data[end - 1] if end > start else 0
    if last not in (0x2E, 0x3F, 0x21, 0x22, 0x27):
        return False
    return not (end - start >= 3 and last == 0x2E and data[end - 2] == 0x2E and data[end - 3] == 0x2E)


@njit(nogil=True, _nrt=False)
def line_fate(data, start, end, words):
    """What becomes of a stripped line without citations and long words, whatever it ends in: KEPT or a reason.

    `words` are those it had with citations. Where it must end well, that comes first.
    """
    if words < LEAST_WORDS:
        return FEW_WORDS
    if not may_hold(data, start, end):
        return KEPT
    if contains(data, start, end, LOREM):
        return LOREM_IPSUM
    if contains(data, start, end, SCRIPT):
        return JAVASCRIPT
    curly = False
    for at in range(start, end):
        curly |= data[at] == CURLY
    if curly:
        return CURLY_BRACKET
    return POLICY if contains(data, start, end, POLICIES) else KEPT
