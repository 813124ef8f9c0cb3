"""The language of each paragraph, an option of the measuring pass: `language: {paragraphs: true}`.

Paragraphs are those of `curation.measure.lines`: runs of lines that are not empty. A page that mixes languages
shows in the share of its text that is in the language of the whole.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.measure.language import LanguageIdentifier

COLUMNS = {
    "paragraph_languages": pa.list_(pa.string()),  # null for a paragraph of white space alone
    "paragraph_language_scores": pa.list_(pa.float64()),
    # characters of the paragraphs in the document's language, of all that have one; null where none has
    "main_language_share": pa.float64(),
}


def paragraph_languages(
    texts: pa.LargeStringArray, languages: pa.StringArray, identifier: LanguageIdentifier
) -> dict[str, pa.Array]:
    """The columns of COLUMNS; `languages` are those of the whole documents."""
    parts = pc.split_pattern_regex(texts, r"\r?\n(?:\r?\n)+")
    rows, paragraphs = pc.list_parent_indices(parts).to_numpy(), parts.flatten()
    filled = pc.not_equal(pc.utf8_trim(paragraphs, characters="\r\n"), "").to_numpy(zero_copy_only=False)
    rows, paragraphs = rows[filled], paragraphs.filter(pa.array(filled))
    found, scores = identifier.identify(paragraphs)
    offsets = pa.array(np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(texts)))]), pa.int32())
    chars = pc.utf8_length(paragraphs).to_numpy().astype(np.float64)
    known = found.is_valid().to_numpy(zero_copy_only=False)
    same = pc.fill_null(pc.equal(found, languages.take(pa.array(rows))), False).to_numpy(zero_copy_only=False)
    total = np.bincount(rows, chars * known, len(texts))
    share = np.bincount(rows, chars * same, len(texts)) / np.maximum(total, 1)
    return {
        "paragraph_languages": pa.ListArray.from_arrays(offsets, found),
        "paragraph_language_scores": pa.ListArray.from_arrays(offsets, pa.array(scores, from_pandas=True)),
        "main_language_share": pa.array(share, mask=total == 0),
    }
