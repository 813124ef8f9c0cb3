"""The strings and patterns that mark a sentence as "cursed": rule 5 of MADLAD-400 (Kudugunta et al. 2023).

The list is that of allenai/datamap-rs, banlists/madlad400_cursed.txt.gz: Lorem ipsum, download pages, listings of
products, OCR and spam. Case counts. That tool takes all but the last four for plain strings, so that those with a
backslash (`Vol\\.`) never match there; here they are the patterns that they were written as.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.measure.unicode import SPACE
from curation.measure.utf8 import decode

STRINGS = (
    " №", "\ufffd\ufffd\ufffd", "aute irure dolor ", " sunt in culpa qui ", "orem ipsum ", " quis nostrud ",
    " adipisicing ", " dolore eu ", " cupidatat ", "autem vel eum", "wisi enim ad", " sex ", " porn ", "黄色电影",
    "mp3", "ownload", "Vol.", " Ep.", "Episode", " шт.", "Develop", "Facebook", " crusher ", " xxx ",
)  # fmt: skip
# The others, which are looked for one by one:
ENDINGS = (r" nr\.$", r"\|\s*$", r" г\.\s*$", r" кг\.\s*$")
PATTERNS = (9 * " ...", 9 * " ....", 9 * " [^ ]", ", ..,,? ..,,? ..,,? ..,,?")
_REPEATS = 9  # of the groups of the first three


def automaton(strings: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aho and Corasick (1975) over UTF-8: the class of each byte, uint8 (256,); the next state by state and class,
    int16 (states, classes); and whether one of the strings ends in a state, bool (states,)."""
    encoded = [string.encode() for string in strings]
    alphabet = sorted(set(b"".join(encoded)))
    classes = np.zeros(256, np.uint8)  # class 0: bytes of none of the strings
    classes[alphabet] = np.arange(1, len(alphabet) + 1)
    prefixes = sorted(
        {word[:size] for word in encoded for size in range(len(word) + 1)}, key=lambda p: (len(p), p)
    )
    number = {prefix: state for state, prefix in enumerate(prefixes)}
    following = np.zeros((len(prefixes), len(alphabet) + 1), np.int16)
    accepts = np.zeros(len(prefixes), np.bool_)
    for state, prefix in enumerate(prefixes):
        accepts[state] = any(prefix.endswith(word) for word in encoded)
        for byte in alphabet:
            longest = prefix + bytes([byte])
            while longest not in number:
                longest = longest[1:]
            following[state, classes[byte]] = number[longest]
    return classes, following, accepts


CLASSES, NEXT, ACCEPTS = automaton(STRINGS)


@njit(nogil=True)
def is_cursed(data, start, end, flags, classes, following, accepts, scratch):
    """Whether one of the strings or patterns is found in the sentence from byte `start` to `end`.

    `scratch`, int64 (4, 5), is overwritten.
    """
    if _ends_cursed(data, start, end, flags):
        return True
    state, chars, last, run = 0, 0, -9, 0
    last4, last5, runs4, runs5 = scratch[0], scratch[1], scratch[2], scratch[3]
    scratch[:2] = -9  # where spaces lay: characters from the start
    for at in range(start, end):
        byte = data[at]
        state = following[state, classes[byte]]
        if accepts[state]:
            return True
        if byte == 0x20:
            # Spaces that lie 4, 5 or 2 characters apart; for the last, none may lie between them.
            by4, by5 = chars % 4, chars % 5
            runs4[by4] = runs4[by4] + 1 if last4[by4] == chars - 4 else 1
            runs5[by5] = runs5[by5] + 1 if last5[by5] == chars - 5 else 1
            run = run + 1 if last == chars - 2 else 1
            last4[by4] = last5[by5] = last = chars
            if runs4[by4] >= _REPEATS and _on_one_line(data, at + 1, end, 3):
                return True
            if runs5[by5] >= _REPEATS and _on_one_line(data, at + 1, end, 4):
                return True
            if run >= _REPEATS and at + 1 < end and data[at + 1] != 0x20:
                return True
        elif byte == 0x0A:
            scratch[:2] = -9
        elif byte == 0x2C and _is_list_of_pairs(data, at + 1, end):
            return True
        chars += byte & 0xC0 != 0x80
    return False


@njit(nogil=True)
def _ends_cursed(data, start, end, flags):
    full_stop = end - start >= 4 and data[end - 1] == 0x2E
    if full_stop and data[end - 2] == 0x72 and data[end - 3] == 0x6E and data[end - 4] == 0x20:  # " nr."
        return True
    stop = start  # the end of the sentence without whitespace at its end
    for back in range(end - start):
        at = end - 1 - back
        if data[at] & 0xC0 != 0x80:
            code, following = decode(data, at, end)
            if flags[code] & SPACE == 0:
                stop = following
                break
    if stop == start:
        return False
    if data[stop - 1] == 0x7C:
        return True
    if data[stop - 1] != 0x2E or stop - start < 4 or data[stop - 2] != 0xB3 or data[stop - 3] != 0xD0:  # "г."
        return False
    if data[stop - 4] == 0x20:
        return True
    before = stop - start >= 6 and data[stop - 4] == 0xBA and data[stop - 5] == 0xD0  # "к"
    return before and data[stop - 6] == 0x20


@njit(nogil=True)
def _on_one_line(data, at, end, wanted):
    """Whether so many more characters follow, none of them a newline."""
    for _ in range(wanted):
        if at >= end or data[at] == 0x0A:
            return False
        _, at = decode(data, at, end)
    return True


@njit(nogil=True)
def _is_list_of_pairs(data, at, end):
    """Whether four times a space, two characters and a comma or two follow: the last of the patterns."""
    for group in range(4):
        if at >= end or data[at] != 0x20 or not _on_one_line(data, at + 1, end, 2):
            return False
        at += 1
        for _ in range(2):
            _, at = decode(data, at, end)
        if at >= end or data[at] != 0x2C:
            return False
        at += 1
        at += group < 3 and at < end and data[at] == 0x2C
    return True
