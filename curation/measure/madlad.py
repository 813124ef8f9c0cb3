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
from numba import njit

from curation.measure.cursed import ACCEPTS, CLASSES, NEXT, is_cursed
from curation.measure.group import Columns, Group
from curation.measure.next_word import next_word
from curation.measure.unicode import FLAGS, SPACE, UPPER
from curation.measure.utf8 import decode, text_buffers

LEAST_WORDS = 12  # of a sentence that list case is looked for in
SHORTEST, LONGEST = 20, 500  # characters
TECHNICAL = b"0123456789{}+/()>"

COUNTS = (
    "madlad_sentences",
    "madlad_list_case",  # rule 2
    "madlad_odd_length",  # rule 3
    "madlad_technical",  # rule 4
    "madlad_cursed",  # rule 5
)

_TECHNICAL = np.zeros(256, np.bool_)
_TECHNICAL[list(TECHNICAL)] = True


def _measure(documents: pa.Table, texts: pa.LargeStringArray) -> Columns:
    data, offsets = text_buffers(texts)
    out = np.zeros((len(COUNTS) + 1, len(texts)), np.int64)
    _count_sentences(data, offsets, FLAGS, _TECHNICAL, CLASSES, NEXT, ACCEPTS, out)
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
        byte = data[at]
        if byte != 0x2E and byte != 0x21 and byte != 0x3F:
            at += 1
            continue
        stop = at
        while at < end and (data[at] == 0x2E or data[at] == 0x21 or data[at] == 0x3F):
            at += 1
        following = at
        while following < end:
            code, after = decode(data, following, end)
            if flags[code] & SPACE == 0:
                break
            following = after
        if following > at:
            return stop, following
    return end, end


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


@njit(nogil=True, cache=True)
def _count_sentences(data, offsets, flags, technical, classes, following, accepts, out):
    scratch = np.zeros((4, 5), np.int64)
    for document in range(len(offsets) - 1):
        at, end = offsets[document], offsets[document + 1]
        while at < end:
            start = at
            stop, at = _sentence_end(data, at, end, flags)
            if _is_blank(data, start, stop, flags):
                continue
            chars, marks = 0, 0
            for place in range(start, stop):
                chars += data[place] & 0xC0 != 0x80
                marks += technical[data[place]]
            list_case = _is_list_case(data, start, stop, flags)
            cursed = is_cursed(data, start, stop, flags, classes, following, accepts, scratch)
            out[0, document] += 1
            out[1, document] += list_case
            out[2, document] += chars < SHORTEST or chars > LONGEST
            out[3, document] += 5 * marks > chars
            out[4, document] += cursed
            out[5, document] += list_case or cursed
