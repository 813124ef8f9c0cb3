"""The columns of a measurement table and how each follows from the kernels' counts.

A ratio whose denominator is zero is null: an empty text has no mean word length. Counts are never null.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from curation.measure.characters import character_counts
from curation.measure.group import Group
from curation.measure.lines import line_counts
from curation.measure.repetition import DUPLICATE, TOP, repetition_counts
from curation.measure.utf8 import text_buffers
from curation.measure.words import word_counts

# Column -> the count it is. Definitions stand beside the names in the kernels' modules.
COUNTS = {
    "chars": "chars",  # code points
    "words": "words",  # Unicode words: curation.measure.repetition
    "whitespace_words": "whitespace_words",  # str.split
    "lines": "lines",  # newlines + 1
    "stop_words": "stop_words",  # occurrences among whitespace words, any case
    "max_line_length": "longest_line",  # characters
}

# Column -> (numerator, denominator).
RATIOS = {
    # whitespace words (Dolma 3, steps 4, 5, 7)
    "mean_word_length": ("word_chars", "whitespace_words"),
    "symbol_word_ratio": ("symbols", "symbol_words"),  # ". . ." is one word to this one
    "alpha_word_share": ("alpha_words", "whitespace_words"),
    # lines (step 6): bullets among all lines, ellipses among those that are not empty
    "mean_line_length": ("line_chars", "lines"),
    "bullet_line_share": ("bullet_lines", "lines"),
    "ellipsis_line_share": ("ellipsis_lines", "filled_lines"),
    # repetition (step 10): every copy counts, the first one included; lines and paragraphs that are not empty
    "dup_line_share": ("dup_lines", "filled_lines"),
    "dup_line_char_share": ("dup_line_chars", "line_chars"),
    "dup_paragraph_share": ("dup_paragraphs", "paragraphs"),
    "dup_paragraph_char_share": ("dup_paragraph_chars", "paragraph_chars"),
    **{f"top_{n}gram_char_share": (f"top_{n}gram_chars", "unicode_word_chars") for n in TOP},
    **{f"dup_{n}gram_char_share": (f"dup_{n}gram_chars", "unicode_word_chars") for n in DUPLICATE},
    "unique_word_share": ("distinct_words", "words"),  # Unicode words, case counts
    # characters of a kind among all characters
    "alnum_char_share": ("alnum", "chars"),
    "digit_char_share": ("digits", "chars"),
    "uppercase_char_share": ("upper", "chars"),
    "letter_char_share": ("letters", "chars"),
    "whitespace_char_share": ("spaces", "chars"),
    "punctuation_char_share": ("punctuation", "chars"),
}


def text_columns(texts: pa.LargeStringArray) -> dict[str, pa.Array]:
    """The columns `bytes` (uint64), those of COUNTS (uint64) and of RATIOS (double, null where undefined)."""
    data, offsets = text_buffers(texts)
    counts = {"bytes": np.diff(offsets)}
    for kernel in (character_counts, line_counts, word_counts, repetition_counts):
        counts |= kernel(data, offsets)
    counts["symbol_words"] = counts["whitespace_words"] - 2 * counts["spaced_ellipses"]
    columns = {"bytes": pa.array(counts["bytes"], pa.uint64())}
    columns |= {name: pa.array(counts[count], pa.uint64()) for name, count in COUNTS.items()}
    for name, (numerator, denominator) in RATIOS.items():
        undefined = counts[denominator] == 0
        values = counts[numerator] / np.where(undefined, 1, counts[denominator])
        columns[name] = pa.array(values, pa.float64(), mask=undefined)
    return columns


def schema(minhash: pa.DataType, groups: Iterable[Group] = ()) -> pa.Schema:
    """The schema of a measurement file; `minhash` is the type of a MinHash signature, null without.

    The columns of `groups` come last, in their order.
    """
    return pa.schema(
        [
            ("id", pa.string()),
            ("content_hash", pa.string()),  # XXH3-128 of the rendered text's UTF-8, 32 hex
            ("group_hash", pa.string()),  # XXH3-128 of what `prompt_text` gives, 32 hex
            ("bytes", pa.uint64()),  # of the rendered text in UTF-8, after the edits
            *((name, pa.uint64()) for name in COUNTS),
            *((name, pa.float64()) for name in RATIOS),
            ("gzip_ratio", pa.float64()),  # compressed / original, of a prefix; null without text
            ("language", pa.string()),
            ("language_score", pa.float64()),
            ("minhash", minhash),  # null where the text has fewer units than the n-gram
            # Unicode words that line edits remove to all of the text; null without words and without such an edit
            ("line_edit_word_share", pa.float64()),
            *((name, kind) for group in groups for name, kind in group.columns.items()),
        ]
    )
