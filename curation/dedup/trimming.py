"""What a recipe says about text that is repeated within and across documents, and cut."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from curation.config import Share, Strict
from curation.dedup.spans import Snap


class Substring(Strict):
    """Strings of at least `min_bytes` bytes that are at an earlier place too are cut; the first one stays.

    Earlier: in a document that the keep policy prefers, or before it in the same document. `sources`: those that
    take part, none given: all of kind text. Gaps between cuts are cut too where `bridge` of the whole is repeated
    (Olmo 3 ships 95%; 100% closes none). A cut is drawn back to whole words or lines by `snap`. A document that
    would lose more than `max_removed` of its bytes is dropped, and is then no reason to cut others.
    """

    min_bytes: Annotated[int, Field(ge=16)] = 500
    sources: tuple[str, ...] = ()
    bridge: Annotated[Share, Field(gt=0, le=1)] = 0.95
    snap: Snap = "word"
    max_removed: Annotated[Share, Field(gt=0, le=1)] = 0.8


class Lines(Strict):
    """Lines, or paragraphs, that are found more than `repeats` times are cut, but for the first.

    A line is compared without the white space around it; a paragraph is a run of lines that are not empty.
    `normalise: words` compares their words alone: lower case, no signs, any white space. Counted are the documents
    that hold it, or all its `occurrences`, in its `scope`: its own source, or all. The default of 6 is that of
    Llama 3 (arXiv 2407.21783, section 3.1.1: lines that appear more than 6 times in 30 million documents).
    `keep: first` leaves it where the keep policy prefers it (counting documents: in that document, however often),
    `none` nowhere. One of fewer than `min_bytes` bytes stays. `sources` and `max_removed`: as for substrings.
    """

    unit: Literal["line", "paragraph"] = "line"
    repeats: Annotated[int, Field(ge=1)] = 6
    count: Literal["documents", "occurrences"] = "documents"
    scope: Literal["source", "all"] = "source"
    normalise: Literal["none", "words"] = "none"
    keep: Literal["first", "none"] = "first"
    min_bytes: Annotated[int, Field(ge=1)] = 20
    sources: tuple[str, ...] = ()
    max_removed: Annotated[Share, Field(gt=0, le=1)] = 0.8
