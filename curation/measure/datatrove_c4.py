"""What datatrove's C4QualityFilter (0.10.1) decides on, from a document's tokens: the kept lines and sentences.

The rules for lines are those of `curation.measure.c4_lines`. A sentence is one of spaCy's rule-based sentencizer,
within a line without its citations: a token that is neither punctuation nor an end mark begins a new one if an end
mark stands before it in the sentence.
"""

from __future__ import annotations

from numba import njit

from curation.measure.c4_lines import (
    CURLY_BRACKET,
    KEPT,
    LONGEST_WORD,
    LOREM_IPSUM,
    has_bracket,
    line_fate,
    longest_word,
    without_citations,
)
from curation.measure.spacy_merge import AFTER_BLANK_TOKEN, ALL_PUNCTUATION, ENDS_SENTENCE
from curation.measure.spacy_tokens import (
    CHUNKS,
    LINE_CHUNKS,
    LINE_FIRST,
    LINE_LAST,
    LINES,
    LONGEST_CHUNK,
    TOKENS,
    tokenise,
)

LOREM_LINES, CURLY_LINES, KEPT_LINES, SENTENCES, C4_COUNTS = range(5)


@njit(nogil=True, _nrt=False)
def _sentences(kinds, first, last):
    """The sentences of the tokens [first, last)."""
    sentences, ended = 1, False
    for k in range(first, last):
        kind = kinds[k]
        blank_begins = ended and k > first and kind & AFTER_BLANK_TOKEN
        if blank_begins:  # the white space is a token that begins one
            sentences += 1
            ended = False
        if ended and not kind & (ALL_PUNCTUATION | ENDS_SENTENCE):
            sentences += 1
            ended = False
        elif kind & ENDS_SENTENCE:
            ended = True
    return sentences


@njit(nogil=True, _nrt=False)
def count_c4(data, begin, end, tables, tokens, counts, buffer, line_tokens, chunk, line_counts, out):
    """Fill `out` (C4_COUNTS numbers) for a tokenised text.

    `buffer`, `line_tokens` and `chunk` have room for its longest line, for lines that lose citations.
    """
    out[:] = 0
    for number in range(counts[LINES]):
        line = tokens.lines[number]
        if line[LINE_FIRST] < 0:
            continue
        start, stop = begin + line[LINE_FIRST], begin + line[LINE_LAST]
        final = number == counts[LINES] - 1
        words = (counts[CHUNKS] if final else tokens.lines[number + 1, LINE_CHUNKS]) - line[LINE_CHUNKS]
        if counts[LONGEST_CHUNK] > LONGEST_WORD and longest_word(data, start, stop, tables.classes) > LONGEST_WORD:
            continue
        length = -1
        if has_bracket(data, start, stop):
            length = without_citations(data, start, stop, tables.classes, buffer)
            if length == stop - start:
                length = -1
        if length >= 0:
            fate = line_fate(buffer, 0, length, words, True)
        else:
            fate = line_fate(data, start, stop, words, True)
        if fate == LOREM_IPSUM:
            out[LOREM_LINES] += out[CURLY_LINES] == 0
        elif fate == CURLY_BRACKET:
            out[CURLY_LINES] += out[LOREM_LINES] == 0
        if fate != KEPT:
            continue
        out[KEPT_LINES] += 1
        if length >= 0:
            tokenise(buffer, 0, length, tables, line_tokens, chunk, line_counts)
            out[SENTENCES] += _sentences(line_tokens.kinds, 0, line_counts[TOKENS])
        else:
            last = counts[TOKENS] if final else tokens.lines_tokens[number + 1]
            out[SENTENCES] += _sentences(tokens.kinds, tokens.lines_tokens[number], last)
