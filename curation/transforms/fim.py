"""Fill-in-the-middle (Bavarian et al. 2022), as Dolma 3 does it to StackEdu: a text's middle moved to its end.

A text is cut at two distinct places, uniform over its characters and never at the first or the last one, into
prefix, middle and suffix. PSM: `<|fim_prefix|>` prefix `<|fim_suffix|>` suffix `<|fim_middle|>` middle. SPM:
`<|fim_suffix|>` suffix `<|fim_prefix|>` prefix `<|fim_middle|>` middle. All of it is in the loss. A document of
several files is cut file by file, each with a draw of its own. All draws come from the document's id alone: copies
of a document are equal, and so is the document in another mix.
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
from pydantic import Field

from curation.chat import FILL_IN_MIDDLE, Segments, Specials, plain_texts
from curation.config import Share, Strict
from curation.keys import draw, key_of, keyed_hash

SHORTEST = 4  # characters of a file that can be cut at two places
COIN, FIRST, SECOND, ORDER = range(4)  # the draws of a file


class Fim(Strict):
    """The settings of a line's `transform: {fim: ...}`."""

    rate: Share = Field(0.5, ge=0, le=1)  # of files (of documents of one file) that are rearranged
    spm: Share = Field(0.5, ge=0, le=1)  # of those rearranged, in the order suffix, prefix, middle
    files: str | None = Field(None, min_length=1)  # what stands between the files of a document: <|file_sep|>

    @property
    def name(self) -> str:
        """The transform as a manifest's rows name it; all that is needed to apply it again."""
        files = "" if self.files is None else f" files={self.files}"
        return f"fim rate={self.rate!r} spm={self.spm!r}{files}"


def fim_of(name: str) -> Fim | None:
    """The settings in the name of a transform; None for a transform of another kind."""
    match = re.fullmatch(r"fim rate=(\S+) spm=(\S+)(?: files=(.+))?", name, re.DOTALL)
    return Fim(rate=match[1], spm=match[2], files=match[3]) if match else None


def fim_segments(table: pa.Table | pa.RecordBatch, fim: Fim, specials: Specials) -> tuple[Segments, np.ndarray]:
    """The segments of documents of kind text, and which of them are rearranged at all: bool (n,).

    Raises ValueError naming the tokens that the tokenizer lacks.
    """
    if missing := [name for name in FILL_IN_MIDDLE if name not in specials.others]:
        raise ValueError(
            f"transform '{fim.name}': the tokenizer has no single token for {', '.join(missing)}; "
            "make its folder by the tokenizer step, which adds what a given tokenizer lacks"
        )
    rows = [
        pieces(text, fim, hashed)
        for text, hashed in zip(
            plain_texts(table).to_pylist(), keyed_hash(table["id"], key_of(0, "fim")), strict=True
        )
    ]
    counts = np.array([len(row) for row in rows], np.int64)
    flat = [piece for row in rows for piece in row]
    closing = [specials.end_of_text if token is None else specials.others[token] for _, token in flat]
    segments = Segments(
        contents=pa.array([content for content, _ in flat], pa.large_string()),
        opening=np.full(len(flat), -1, np.int64),
        closing=np.array(closing, np.int64),
        loss=np.ones(len(flat), bool),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        parts=np.zeros((len(rows), 2), np.int64),
    )
    return segments, counts > 1


def pieces(text: str, fim: Fim, hashed: np.uint64) -> list[tuple[str, str | None]]:
    """A document as contents, each with the token of FILL_IN_MIDDLE after it; None after the last.

    `hashed`: the document's keyed hash. A document of which no file is rearranged is one piece, the text itself.
    """
    made: list[tuple[str, str | None]] = []
    pending = ""  # what has been passed over since the last token
    files = [text] if fim.files is None else text.split(fim.files)
    for number, file in enumerate(files):
        pending += fim.files if number else ""
        draws = [draw(hashed, 4 * number + which) for which in range(4)]
        if draws[COIN] >= fim.rate * 2.0**64 or len(file) < SHORTEST:
            pending += file
            continue
        prefix, middle, suffix = cut(file, draws[FIRST], draws[SECOND])
        first, second = (prefix, "<|fim_prefix|>"), (suffix, "<|fim_suffix|>")
        if draws[ORDER] < fim.spm * 2.0**64:
            first, second = second, first
        made += [(pending, first[1]), (first[0], second[1]), (second[0], "<|fim_middle|>")]
        pending = middle
    return [*made, (pending, None)]


def cut(text: str, first: int, second: int) -> tuple[str, str, str]:
    """Prefix, middle and suffix of a text, cut before two distinct characters of 1 to len - 2.

    `first`, `second`: 64 random bits each.
    """
    places = len(text) - 2
    one = first * places >> 64
    other = second * (places - 1) >> 64
    other += other >= one
    low, high = sorted((one + 1, other + 1))
    return text[:low], text[low:high], text[high:]
