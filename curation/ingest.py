"""Ingest: raw files to a pool of documents, nothing lost uncounted.

A raw record becomes one document, or a row in the quarantine that says where it lies and what is wrong with it,
or is skipped for a counted reason (an image in a web archive, a tied preference).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from curation.config import Bytes, Share, Strict
from curation.steps import Context, StepOutput


class Source(Strict):
    """One source of a pipeline: where its raw files are and how they are to be read."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    kind: Literal["text", "chat", "pairs"] = "text"
    type: str = ""  # free label for the tables of the account: "Web pages", "Code"
    reader: str  # see curation/read/registry.py
    root: str  # a folder, or "python:stdlib" / "python:site-packages"
    include: tuple[str, ...] = ()  # globs relative to the root; empty: what the reader reads by default
    exclude: tuple[str, ...] = ()
    options: dict[str, Any] = {}  # of the reader
    profile: str = "plain"  # rule profile that decides over the measurements
    holdout: Share = 0.0  # share of documents kept out of every mix, for evaluation
    quality: bool = False  # whether the quality classifier is applied
    max_document_bytes: Bytes = 32 << 20  # a longer record is quarantined, without being held in memory
    max_file_bytes: Bytes = 64 << 30  # decompressed
    max_ratio: int = Field(1000, gt=0)  # decompressed to compressed bytes, tested above 64 MiB
    page_seconds: float = Field(10.0, gt=0)  # for the extraction of one web page
    shard_bytes: Bytes = 256 << 20  # of text


def ingest(ctx: Context, source: Source) -> StepOutput:
    """Read a source into the step `ingest/<source>`: `shards/*.parquet` (DOCUMENT) and `quarantine.parquet`.

    Counts: records_read = documents_out + quarantined + skipped; skipped_by_reason, bytes_in (raw files),
    bytes_text (UTF-8 of the documents), files. Raises ConfigError if an include pattern matches no file.
    """
    raise NotImplementedError
