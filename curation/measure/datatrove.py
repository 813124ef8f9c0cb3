"""What the four filters of datatrove 0.10.1 look at (Gopher quality, Gopher repetition, C4 and FineWeb quality):
the group `datatrove`.

Words are the tokens of spaCy's blank English tokenizer, datatrove's default, found once for all four. Each filter
has lines of its own: see `curation.measure.datatrove_lines`. Denominators are datatrove's: tokens of any kind for
the symbol and letter shares, lines with blank ones for bullets, the characters of the raw text for repetition.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from curation.compiled import njit
from curation.measure.datatrove_c4 import (
    ANY_END,
    C4_COUNTS,
    CURLY_LINES,
    KEPT_LINES,
    LEFT_CHARS,
    LEFT_DUP_CHARS,
    LEFT_LINES,
    LEFT_NEWLINES,
    LEFT_SHORT,
    LEFT_TERMINAL,
    LEFT_TOKENS,
    LOREM_LINES,
    SENTENCES,
    count_c4,
)
from curation.measure.datatrove_lines import (
    BULLETS,
    DUP_FILLED_CHARS,
    DUP_LINE_CHARS,
    DUP_LINES,
    DUP_PARAGRAPH_CHARS,
    DUP_PARAGRAPHS,
    ELLIPSIS_ENDS,
    FILLED_LINES,
    LINE_COUNTS,
    NEWLINE_LINES,
    PARAGRAPHS,
    SHORT_LINES,
    SPLIT_LINES,
    TERMINAL_LINES,
    count_lines,
    table,
)
from curation.measure.datatrove_ngrams import DUPLICATE, NGRAM_COUNTS, TOP, count_ngrams, ngram_scratch
from curation.measure.group import Columns, Group
from curation.measure.intrinsics import any_byte_mask, beyond_mask, going_on_mask, ones
from curation.measure.spacy_chunk import chunk_scratch
from curation.measure.spacy_english import english
from curation.measure.spacy_tokens import (
    ALPHA_TOKENS,
    COUNTS,
    ELLIPSES,
    HASHES,
    NEWLINES,
    STOP_WORDS,
    TOKENS,
    WORD_CHARS,
    WORDS,
    token_scratch,
    tokenise,
)
from curation.measure.utf8 import BLOCK, block_at, text_buffers

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_break_mask = any_byte_mask(b"\n\v\f\r\x1c\x1d\x1e\x85\xa8\xa9")  # line breaks, or their last bytes

# Rows of the kernel's table: counts of tokens, of lines, of n-grams, of C4, and two more.
_LINES = COUNTS
_NGRAMS = _LINES + LINE_COUNTS
_C4 = _NGRAMS + NGRAM_COUNTS
_CHARS, _NON_NEWLINE, _ROWS = _C4 + C4_COUNTS, _C4 + C4_COUNTS + 1, _C4 + C4_COUNTS + 2

# Column -> row of the table.
NUMBERS = {
    "spacy_tokens": TOKENS,
    "gopher_words": WORDS,  # tokens with a character that is no symbol
    "gopher_stop_words": STOP_WORDS,  # distinct ones, case counts
    "c4_lorem_ipsum_lines": _C4 + LOREM_LINES,  # lines that C4 would keep but for this, before any with a bracket
    "c4_curly_bracket_lines": _C4 + CURLY_LINES,  # the same, before any with "lorem ipsum"
    "c4_lines": _C4 + KEPT_LINES,  # lines that it keeps
    "c4_sentences": _C4 + SENTENCES,  # spaCy's, of those lines
    "c4_any_end_lorem_ipsum_lines": _C4 + ANY_END + LOREM_LINES,  # the same without the rule for ends of lines
    "c4_any_end_curly_bracket_lines": _C4 + ANY_END + CURLY_LINES,
    "c4_any_end_lines": _C4 + ANY_END + KEPT_LINES,
    "c4_any_end_sentences": _C4 + ANY_END + SENTENCES,
    "fineweb_lines": _LINES + FILLED_LINES,  # lines that are not blank
    "fineweb_left_lines": _C4 + LEFT_LINES,  # those of the text that C4 leaves, with any end of lines
}
# Column -> (numerator, denominator); null where the denominator is zero.
SHARES = {
    "gopher_mean_word_length": (WORD_CHARS, WORDS),
    "gopher_hash_ratio": (HASHES, TOKENS),
    "gopher_ellipsis_ratio": (ELLIPSES, TOKENS),
    "gopher_bullet_line_share": (_LINES + BULLETS, _LINES + SPLIT_LINES),
    "gopher_ellipsis_line_share": (_LINES + ELLIPSIS_ENDS, _LINES + SPLIT_LINES),
    "gopher_alpha_word_share": (ALPHA_TOKENS, TOKENS),
    "gopher_dup_paragraph_share": (_LINES + DUP_PARAGRAPHS, _LINES + PARAGRAPHS),
    "gopher_dup_paragraph_char_share": (_LINES + DUP_PARAGRAPH_CHARS, _CHARS),
    "gopher_dup_line_share": (_LINES + DUP_LINES, _LINES + NEWLINE_LINES),
    "gopher_dup_line_char_share": (_LINES + DUP_LINE_CHARS, _CHARS),
    **{f"gopher_top_{n}gram_char_share": (_NGRAMS + k, _CHARS) for k, n in enumerate(TOP)},
    **{f"gopher_dup_{n}gram_char_share": (_NGRAMS + 3 + k, _CHARS) for k, n in enumerate(DUPLICATE)},
    "fineweb_terminal_line_share": (_LINES + TERMINAL_LINES, _LINES + FILLED_LINES),
    "fineweb_short_line_share": (_LINES + SHORT_LINES, _LINES + FILLED_LINES),
    "fineweb_dup_line_char_share": (_LINES + DUP_FILLED_CHARS, _NON_NEWLINE),
    "fineweb_newline_ratio": (NEWLINES, TOKENS),
    "fineweb_left_terminal_line_share": (_C4 + LEFT_TERMINAL, _C4 + LEFT_LINES),
    "fineweb_left_short_line_share": (_C4 + LEFT_SHORT, _C4 + LEFT_LINES),
    "fineweb_left_dup_line_char_share": (_C4 + LEFT_DUP_CHARS, _C4 + LEFT_CHARS),
    "fineweb_left_newline_ratio": (_C4 + LEFT_NEWLINES, _C4 + LEFT_TOKENS),
}


def _measure(documents: pa.Table, texts: pa.LargeStringArray) -> Columns:
    data, offsets = text_buffers(texts)
    out = np.zeros((len(texts), _ROWS), np.int64)
    _measure_documents(data, offsets, english(), out)
    out[:, STOP_WORDS] = np.bitwise_count(out[:, STOP_WORDS])
    columns = {name: pa.array(out[:, row], pa.uint64()) for name, row in NUMBERS.items()}
    for name, (numerator, denominator) in SHARES.items():
        undefined = out[:, denominator] == 0
        shares = out[:, numerator] / np.where(undefined, 1, out[:, denominator])
        columns[name] = pa.array(shares, pa.float64(), mask=undefined)
    return columns


GROUP = Group(
    "datatrove",
    {**dict.fromkeys(NUMBERS, pa.uint64()), **dict.fromkeys(SHARES, pa.float64())},
    _measure,
)


@njit(nogil=True)
def _survey(data, begin, end):
    """Characters, line breaks at most, and whether all is ASCII."""
    going_on, breaks, beyond, at = 0, 0, np.uint64(0), begin
    while at < end:
        place, shift = block_at(data, at)
        inside = _ALL >> np.uint64(BLOCK - min(BLOCK, end - at))
        going_on += ones(going_on_mask(data, place) >> shift & inside)
        breaks += ones(_break_mask(data, place) >> shift & inside)
        beyond |= beyond_mask(data, place) >> shift & inside
        at += BLOCK
    return end - begin - going_on, breaks, beyond == 0


@njit(nogil=True, cache=True)
def _measure_documents(data, offsets, tables, out):
    size, lines, words = 0, 0, 0
    tokens, line_tokens, chunk = token_scratch(0, 0), token_scratch(0, 0), chunk_scratch(0)
    buffer = np.empty(0, np.uint8)
    slots, keys = table(0)
    ngrams = ngram_scratch(0)
    line_counts = np.zeros(COUNTS, np.int64)
    for document in range(len(offsets) - 1):
        begin, end = offsets[document], offsets[document + 1]
        row = out[document]
        chars, breaks, ascii_only = _survey(data, begin, end)
        if end - begin > size or breaks > lines:
            size, lines = max(size, end - begin), max(lines, breaks)
            tokens, line_tokens, chunk = token_scratch(size, lines), token_scratch(size, 0), chunk_scratch(size)
            buffer = np.empty(size, np.uint8)
            slots, keys = table(lines + 2)
        counts = row[:_LINES]
        tokenise(data, begin, end, tables, tokens, chunk, counts)
        count_lines(data, begin, end, tokens, counts, tables.classes, ascii_only, slots, keys, row[_LINES:_NGRAMS])
        if counts[TOKENS] > words:
            words = counts[TOKENS] + counts[TOKENS] // 2
            ngrams = ngram_scratch(words)
        count_ngrams(tokens, counts[TOKENS], ngrams, row[_NGRAMS:_C4])
        count_c4(
            data,
            begin,
            end,
            tables,
            tokens,
            counts,
            buffer,
            line_tokens,
            chunk,
            line_counts,
            ascii_only,
            slots,
            keys,
            row[_C4:_CHARS],
        )
        row[_CHARS] = chars
        row[_NON_NEWLINE] = chars - counts[NEWLINES]
