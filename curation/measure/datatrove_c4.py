"""What C4QualityFilter and, after it, FineWebQualityFilter of datatrove 0.10.1 decide on, from a text's tokens.

The rules for lines are those of `curation.measure.c4_lines`. They are followed twice in one pass: with the rule
that a line must end in terminal punctuation, and without it, as FineWeb was made. What FineWeb's filter then looks
at is the text that is left. A sentence is one of spaCy's rule-based sentencizer, within a line without its
citations: a token that is neither punctuation nor an end mark begins a new one if an end mark stands before it in
the sentence.
"""

from __future__ import annotations

from curation.compiled import njit
from curation.measure.c4_lines import (
    CURLY_BRACKET,
    FEW_WORDS,
    KEPT,
    LEAST_WORDS,
    LONGEST_WORD,
    LOREM_IPSUM,
    ends_well,
    has_bracket,
    line_fate,
    longest_word,
    next_bit,
    next_bracket,
    stripped,
    without_citations,
)
from curation.measure.datatrove_lines import SHORT_LINE, count_chars, ends_terminal, hash_text, seen_before
from curation.measure.hashing import table_size
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

# Places in `out`: with terminal punctuation, with any end, and of the text that any end leaves.
LOREM_LINES, CURLY_LINES, KEPT_LINES, SENTENCES = range(4)
ANY_END = 4  # before the same four
LEFT_LINES, LEFT_TERMINAL, LEFT_SHORT, LEFT_DUP_CHARS, LEFT_CHARS, LEFT_NEWLINES, LEFT_TOKENS = range(8, 15)
C4_COUNTS = 15


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
def _note_fate(out, place, fate):
    """Count a line under the rules whose counts begin at `place`; whether it is kept."""
    if fate == LOREM_IPSUM:
        out[place + LOREM_LINES] += out[place + CURLY_LINES] == 0
    elif fate == CURLY_BRACKET:
        out[place + CURLY_LINES] += out[place + LOREM_LINES] == 0
    out[place + KEPT_LINES] += fate == KEPT
    return fate == KEPT


@njit(nogil=True, _nrt=False)
def _add_line(data, start, stop, classes, ascii_only, slots, keys, known, size, out):
    """Count a line that is left and not blank; how many different ones there are then."""
    chars = stop - start if ascii_only else count_chars(data, start, stop)
    before = known
    known = seen_before(hash_text(data, start, stop), keys, known, slots, size)
    out[LEFT_LINES] += 1
    out[LEFT_TERMINAL] += ends_terminal(data, start, stop, classes)
    out[LEFT_SHORT] += chars <= SHORT_LINE
    out[LEFT_DUP_CHARS] += chars if known == before else 0
    out[LEFT_CHARS] += chars
    return known


@njit(nogil=True, _nrt=False)
def count_c4(
    data, begin, end, tables, tokens, counts, buffer, line_tokens, chunk, line_counts, ascii_only, slots, keys, out
):
    """Fill `out` (C4_COUNTS numbers) for a tokenised text.

    `buffer`, `line_tokens` and `chunk` have room for its longest line, for lines that lose citations; `slots` and
    `keys` for its lines.
    """
    out[:] = 0
    classes = tables.classes
    size = table_size(counts[LINES] + 1)
    slots[:size] = -1
    bracket = bit = begin - 1  # places of the next ones; most lines are before them
    known, blank_lines, blank_chars = 0, 0, 0  # the blank ones since the last one that is not
    last_line, before_last = -1, (0, 0, 0, 0)
    for number in range(counts[LINES]):
        line = tokens.lines[number]
        if line[LINE_FIRST] < 0:
            continue
        start, stop = begin + line[LINE_FIRST], begin + line[LINE_LAST]
        final = number == counts[LINES] - 1
        words = (counts[CHUNKS] if final else tokens.lines[number + 1, LINE_CHUNKS]) - line[LINE_CHUNKS]
        if counts[LONGEST_CHUNK] > LONGEST_WORD and longest_word(data, start, stop, classes) > LONGEST_WORD:
            continue
        source, cut = data, False
        if bracket < start:
            bracket = next_bracket(data, start, end)
        if bracket < stop and has_bracket(data, start, stop):
            length = without_citations(data, start, stop, classes, buffer)
            if length != stop - start:
                source, start, stop, cut = buffer, 0, length, True
        if not cut and bit < start:
            bit = next_bit(data, start, end)
        if cut or bit < stop:
            fate = line_fate(source, start, stop, words)
        else:
            fate = FEW_WORDS if words < LEAST_WORDS else KEPT
        kept = ends_well(source, start, stop) and _note_fate(out, 0, fate)
        if not _note_fate(out, ANY_END, fate):
            continue
        if cut:
            tokenise(buffer, 0, stop, tables, line_tokens, chunk, line_counts)
            words_left = line_counts[TOKENS]
            sentences = _sentences(line_tokens.kinds, 0, words_left)
        else:
            first = tokens.lines_tokens[number]
            last = counts[TOKENS] if final else tokens.lines_tokens[number + 1]
            words_left = last - first
            sentences = _sentences(tokens.kinds, first, last)
        out[SENTENCES] += sentences if kept else 0
        out[ANY_END + SENTENCES] += sentences
        out[LEFT_TOKENS] += words_left
        if cut:
            first, last = stripped(buffer, start, stop, classes)
            if first == last:
                blank_lines += 1
                blank_chars += count_chars(buffer, start, stop)
                continue
            if last_line < 0:  # the text is stripped as a whole in the end
                start = first
        if last_line >= 0:
            out[LEFT_NEWLINES] += 1 + blank_lines
            out[LEFT_CHARS] += blank_chars
        blank_lines = blank_chars = 0
        last_line = number if cut and last < stop else counts[LINES]
        before_last = out[LEFT_TERMINAL], out[LEFT_SHORT], out[LEFT_DUP_CHARS], out[LEFT_CHARS]
        known = _add_line(source, start, stop, classes, ascii_only, slots, keys, known, size, out)
    if 0 <= last_line < counts[LINES]:  # the last line loses the blanks at its end
        start, stop = begin + tokens.lines[last_line, LINE_FIRST], begin + tokens.lines[last_line, LINE_LAST]
        stop = without_citations(data, start, stop, classes, buffer)
        first, last = stripped(buffer, 0, stop, classes)
        out[LEFT_TERMINAL], out[LEFT_SHORT], out[LEFT_DUP_CHARS], out[LEFT_CHARS] = before_last
        out[LEFT_LINES] -= 1
        first = first if out[LEFT_LINES] == 0 else 0
        _add_line(buffer, first, last, classes, ascii_only, slots, keys, known, size, out)
