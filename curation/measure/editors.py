"""The edits that a profile can ask for by name, and the text that they leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.compose import compose
from curation.edits import SPANS, apply_edits, span_values
from curation.measure.c4_edit import c4_spans, c4_spans_any_end
from curation.measure.datatrove_pii import datatrove_pii_spans
from curation.measure.line_edits import line_spans, newline_spans
from curation.measure.pii import pii_spans
from curation.measure.render import rendered_text
from curation.measure.unicode import FLAGS
from curation.measure.unicode_words import count_words
from curation.measure.utf8 import text_buffers

Find = Callable[[pa.LargeStringArray], pa.ListArray]
LINES = "dolma3_lines"

# Each finds its spans (SPANS) in texts without nulls. A document's spans depend on no other document.
EDITORS: dict[str, Find] = {
    "newlines": newline_spans,  # runs of three and more newlines become two
    "c4_lines": c4_spans,  # lines and citations that datatrove's C4QualityFilter takes out
    "c4_lines_any_end": c4_spans_any_end,  # the same for lines that end in anything, as FineWeb was made
    LINES: line_spans,  # the lines and phrases that Dolma 3 takes out of prose
    "pii": pii_spans,  # masks in the place of personal data
    "datatrove_pii": datatrove_pii_spans,  # e-mail and IP addresses, replaced as datatrove's PIIFormatter does
}


@dataclass(frozen=True)
class Edited:
    """What the edits of a profile make of documents, each of shape (n,)."""

    before: pa.LargeStringArray  # the rendered texts
    after: pa.LargeStringArray
    spans: pa.ListArray  # SPANS, relative to `before`
    removed_words: np.ndarray | None  # Unicode words that the edit LINES has taken out, int64; None without it


def edit_texts(documents: pa.Table, names: Sequence[str] = ()) -> Edited:
    """Apply the edits of these names one after another to the texts of documents.

    Chat and preference pairs have no text of their own and stay as they are.
    """
    texts = rendered_text(documents)
    is_text = documents["text"].combine_chunks().is_valid()
    nothing = pa.scalar("", pa.large_string())
    current = texts if is_text.true_count == len(texts) else pc.if_else(is_text, texts, nothing)
    spans = pa.nulls(len(texts), SPANS)
    removed = None
    for name in names:
        found = EDITORS[name](current)
        after = apply_edits(current, found)
        if name == LINES:
            removed = (0 if removed is None else removed) + _removed_words(current, after, span_values(found)[1])
        current, spans = after, compose(spans, found)
    edited = current if is_text.true_count == len(texts) else pc.if_else(is_text, current, texts)
    return Edited(texts, edited, spans, removed)


def _removed_words(before: pa.LargeStringArray, after: pa.LargeStringArray, spans: np.ndarray) -> np.ndarray:
    removed = np.zeros(len(before), np.int64)
    rows = np.flatnonzero(spans)
    for texts, sign in ((before, 1), (after, -1)):
        words = np.empty(len(rows), np.int64)
        count_words(*text_buffers(texts.take(pa.array(rows))), FLAGS, words)
        removed[rows] += sign * words
    return removed
