"""The data contracts that every stage shares, as Arrow schemas.

A *pool* is a folder of Parquet shards of documents, one source to a pool. Every other per-document table
(measurements, tokens, classes, ledgers) lies in a file of the same name as its shard: `shards/<shard>.parquet`,
the same rows in the same order, its first column the id.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.large_string())]))

# kind "text": `text` is set. kind "chat": `messages`. kind "pairs": `messages` is the prompt, `chosen` and
# `rejected` the two continuations. What is not of the kind is null; rendered text is derived, never stored.
DOCUMENT = pa.schema(
    [
        ("id", pa.string()),  # 32 hex: document_id(source, content)
        ("source", pa.string()),
        ("text", pa.large_string()),
        ("messages", MESSAGES),
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("origin", pa.string()),  # file relative to the source's root, '#' and the record's place in it
        ("created", pa.string()),  # ISO 8601 date or time of the document itself, null if unknown
        ("metadata", pa.string()),  # JSON object
    ]
)

QUARANTINE = pa.schema(
    [
        ("source", pa.string()),
        ("origin", pa.string()),  # as in DOCUMENT
        ("offset", pa.int64()),  # byte offset in the (decompressed) file, -1 if unknown
        ("error", pa.string()),
        ("sample", pa.string()),  # the first bytes of the record, backslash-escaped, 200 characters at most
    ]
)

LEDGER = pa.schema(
    [
        ("id", pa.string()),
        ("row", pa.uint32()),  # row of the shard
        ("stage", pa.string()),  # rules, exact, fuzzy, ...
        ("rule", pa.string()),  # the rule that dropped the document; null if it is kept
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("keep", pa.bool_()),
        ("twin", pa.string()),  # id of the kept twin, for duplicates
    ]
)

# Of tokens, powers of two, K = 1024. A bucket holds its lower bound.
LENGTH_BUCKETS = ("<1K", *(f"{1 << n}K-{2 << n}K" for n in range(9)), "512K-1M", ">1M")

# A row for each document that every stage of curation kept: all that planning and mixing look at.
CATALOG = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("kind", pa.string()),  # text, chat, pairs
        ("shard", pa.string()),  # shard name without folder and suffix, unique within a source
        ("row", pa.uint32()),
        ("tokens", pa.uint32()),  # as trained: text + end-of-text; chat by the template; pairs: prompt twice
        ("tokens_plain", pa.uint32()),  # chat rendered as plain text + end-of-text; equals tokens for text
        ("bytes", pa.uint64()),  # UTF-8 bytes of the document's text
        ("language", pa.string()),
        ("quality", pa.float32()),  # null where no classifier was applied
        ("vigintile", pa.uint8()),  # 1 (worst) to 20 (best), by tokens, per source and topic; null without quality
        ("length_bucket", pa.string()),  # power of two of tokens: "<1K", "1K-2K", ... ">1M"
        ("holdout", pa.bool_()),  # kept out of every mix, for evaluation
        ("gzip_ratio", pa.float64()),  # compressed / original bytes, as measured; null where there is none
        ("topic", pa.string()),  # by the classifier `topic`, else the document's own; null if neither is known
    ]
)


def document_id(source: str, content: bytes) -> str:
    """The id of a document: XXH3-128 over source name, a zero byte and the content. 32 hex digits.

    `content` is the UTF-8 text, or for chat and pairs `messages_bytes` of them. Position, file and path
    never enter it: the same content in the same source is the same id.
    """
    return xxhash.xxh3_128_hexdigest(source.encode() + b"\x00" + content)


def messages_bytes(*conversations: list[dict[str, str]] | None) -> bytes:
    """The content of a chat document (its messages) or of a pair (messages, chosen, rejected), for `document_id`.

    JSON without spaces: a list of conversations, each a list of [role, content]. Raises TypeError for a lone
    surrogate.
    """
    turns = [[[turn["role"], turn["content"]] for turn in messages or ()] for messages in conversations]
    return orjson.dumps(turns)


def metadata_of(text: str | None) -> dict[str, Any]:
    """The JSON object in a document's `metadata`; {} for none. Its strings can be written to Arrow.

    What readers found there can hold lone surrogates, which JSON allows and UTF-8 does not: each is U+FFFD here.
    """
    if not text:
        return {}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = json.loads(text, parse_constant=lambda _: None)  # NaN and the infinities
        clean = re.sub("[\ud800-\udfff]", "\ufffd", json.dumps(value, ensure_ascii=False))
        value = orjson.loads(clean)
    return value if isinstance(value, dict) else {}


def one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column of a table, or of a record batch, as one array."""
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return column


def require_columns(table: pa.Table, schema: pa.Schema, where: str) -> None:
    """Raise ValueError naming each column of `schema` that `table` lacks or holds with another type."""
    for field in schema:
        position = table.schema.get_field_index(field.name)
        if position < 0:
            raise ValueError(f"{where}: column '{field.name}' is missing; it has {table.column_names}")
        if not table.schema.field(position).type.equals(field.type):
            found = table.schema.field(position).type
            raise ValueError(f"{where}: column '{field.name}' is {found}, expected {field.type}")


def require_same_ids(ids: pa.ChunkedArray, other: pa.ChunkedArray, where: str) -> None:
    """Raise ValueError unless two shard files hold the same ids in the same order."""
    if not ids.equals(other):
        raise ValueError(f"{where}: rows do not match the pool's shard; remove this step's folder and rerun")


def shard_rows(path) -> int:
    """Number of rows of a Parquet file, from its footer."""
    return pq.read_metadata(path).num_rows
