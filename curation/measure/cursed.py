"""The strings and patterns that mark a sentence as "cursed": rule 5 of MADLAD-400 (Kudugunta et al. 2023).

The list is that of allenai/datamap-rs, banlists/madlad400_cursed.txt.gz: Lorem ipsum, download pages, listings of
products, OCR and spam. Case counts. That tool takes all but the last four for plain strings, so that those with a
backslash (`Vol\\.`) never match there; here they are the patterns that they were written as.
"""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.measure.intrinsics import (
    comma_mask,
    going_on_mask,
    line_end_mask,
    ones,
    sequences_mask,
    space_mask,
    trailing_zeros,
)
from curation.measure.needles import needle_tables
from curation.measure.unicode import SPACE
from curation.measure.utf8 import BLOCK, block_at, decode

# Each string with what it is looked for by: a few bytes of it that are rare elsewhere.
STRINGS = {
    " №": b"\x84\x96", "\ufffd\ufffd\ufffd": b"\xbd\xef", "aute irure dolor ": b"rur",
    " sunt in culpa qui ": b"ulp", "orem ipsum ": b"psu", " quis nostrud ": b"rud", " adipisicing ": b"pis",
    " dolore eu ": b" eu", " cupidatat ": b"pid", "autem vel eum": b"eum", "wisi enim ad": b"isi",
    " sex ": b"sex", " porn ": b"orn", "黄色电影": b"\x94\xb5", "mp3": b"p3", "ownload": b"wnl", "Vol.": b"Vo",
    " Ep.": b"Ep", "Episode": b"Ep", " шт.": b"\x82.", "Develop": b"Dev", "Facebook": b"Fac",
    " crusher ": b"crus", " xxx ": b"xx",
}  # fmt: skip
# The others, which are looked for one by one:
ENDINGS = (r" nr\.$", r"\|\s*$", r" г\.\s*$", r" кг\.\s*$")
PATTERNS = (9 * " ...", 9 * " ....", 9 * " [^ ]", ", ..,,? ..,,? ..,,? ..,,?")
_APART_2, _APART_4, _APART_5 = (np.uint64(sum(1 << by * times for times in range(9))) for by in (2, 4, 5))
_ALL_17 = np.uint64((1 << 17) - 1)  # for the last of these no space may lie between
LONGEST = 45  # characters of a pattern
ALL, _1 = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(1)
rare_mask = sequences_mask(dict.fromkeys(STRINGS.values()))
NEEDLES = needle_tables({string.encode(): rare for string, rare in STRINGS.items()})


@njit(nogil=True)
def holds_pattern(data, start, stop, end):
    """Whether one of PATTERNS begins and has all its spaces or commas from byte `start` to `stop` of a sentence.

    The sentence ends at byte `end`.
    """
    # Bit n: whether a space lies n characters before the last one; on its line alone, and anywhere.
    line, whole = np.uint64(0), np.uint64(0)
    before, last, at = 0, start, start
    while at < stop:
        place, shift = block_at(data, at)
        known = min(BLOCK, stop - at)
        inside = ALL >> np.uint64(BLOCK - known)
        goes_on = going_on_mask(data, place) >> shift & inside
        found = space_mask(data, place) | line_end_mask(data, place) | comma_mask(data, place)
        found = found >> shift & inside
        while found:
            bit = trailing_zeros(found)
            found &= found - _1
            byte, following = data[at + bit], at + bit + 1
            if byte == 0x20:
                chars = before + bit - ones(goes_on & (_1 << np.uint64(bit)) - _1)
                by = np.uint64(min(chars - last, 63))
                line, whole, last = line << by | _1, whole << by | _1, chars
                if line & _APART_4 == _APART_4 and _on_one_line(data, following, end, 3):
                    return True
                if line & _APART_5 == _APART_5 and _on_one_line(data, following, end, 4):
                    return True
                if whole & _ALL_17 == _APART_2 and following < end and data[following] != 0x20:
                    return True
            elif byte == 0x0A:
                line = np.uint64(0)
            elif _is_list_of_pairs(data, following, end):
                return True
        before += known - ones(goes_on)
        at += known
    return False


@njit(nogil=True)
def ends_cursed(data, start, end, flags):
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
