"""What becomes of an item that a reader gives: a row of the pool, a row of the quarantine, or a counted reason."""

from __future__ import annotations

import json
from typing import Any

import orjson

from curation.read.record import SAMPLE, Document, Item, Problem, RawFile, Skipped
from curation.schema import document_id, messages_bytes


def admitted(
    source: str, kind: str, file: RawFile, item: Item, limit: int
) -> tuple[dict[str, Any], int] | Skipped:
    """A row of DOCUMENT and the bytes of its text; a row of QUARANTINE and its bytes, which has an `error`; or why
    the item is passed over. `limit`: the most bytes of a document's text.
    """
    if isinstance(item, Document):
        item = _row(source, kind, file, item, limit)
    if isinstance(item, Problem):
        row = {
            "source": source,
            "origin": _origin(file, item),
            "offset": item.offset,
            "error": item.error[:2000].encode("utf-8", "backslashreplace").decode(),  # it may quote the record
            "sample": printable(item.sample),
        }
        return row, len(row["error"]) + len(row["sample"])
    return item


def _row(
    source: str, kind: str, file: RawFile, item: Document, limit: int
) -> tuple[dict[str, Any], int] | Problem | Skipped:
    """The row of a document, after the checks that all documents pass."""
    texts = [item.text] if kind == "text" else _contents(item)
    try:
        encoded = [text.encode() for text in texts]
    except UnicodeEncodeError as error:
        found = f"U+{ord(error.object[error.start]):04X} at character {error.start}"
        sample = error.object[:SAMPLE].encode("utf-8", "backslashreplace")
        return Problem(item.place, item.offset, f"not Unicode text: {error.reason}: {found}", sample)
    size = sum(map(len, encoded))
    if size > limit:
        error = f"a document of {size} bytes, over the {limit} of max_document_bytes"
        return Problem(item.place, item.offset, error, texts[0][:SAMPLE].encode())
    if not any(text and not text.isspace() for text in texts):
        return Skipped("empty text")
    if kind == "text":
        content = encoded[0]
    elif kind == "chat":
        content = messages_bytes(item.messages)
    else:
        content = messages_bytes(item.messages, item.chosen, item.rejected)
    row = {
        "id": document_id(source, content),
        "source": source,
        "text": content if kind == "text" else None,
        "messages": item.messages,
        "chosen": item.chosen,
        "rejected": item.rejected,
        "origin": _origin(file, item),
        "created": item.created,
        "metadata": _metadata(item.metadata),
    }
    return row, size


def _contents(item: Document) -> list[str]:
    return [turn["content"] for turns in (item.messages, item.chosen, item.rejected) for turn in turns or ()]


def _metadata(values: dict[str, Any]) -> bytes | str:
    """A JSON object with sorted keys."""
    try:
        return orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # a lone surrogate or a number beyond 64 bits, which Python's writer takes
        return json.dumps(values, sort_keys=True, separators=(",", ":"))


def _origin(file: RawFile, item: Document | Problem) -> str:
    """file#record@offset, the offset left out where it is unknown."""
    if item.offset < 0:
        return f"{file.relative}#{item.place}"
    return f"{file.relative}#{item.place}@{item.offset}"


def printable(sample: bytes) -> str:
    """The first characters of a record, what cannot be shown escaped."""
    text = sample[: 4 * SAMPLE].decode("utf-8", "backslashreplace")[:SAMPLE]
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)[:SAMPLE]
