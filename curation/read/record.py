"""What readers give: a document, a problem for the quarantine, or a record skipped for a counted reason."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from curation.extractor import Extractor
from curation.read.stores import RemotePath

Message = dict[str, str]  # role, content
SAMPLE = 200  # characters of a quarantined record that are kept


class Part(NamedTuple):
    """A run of a big file's records: those that begin in the bytes [start, end), or those of these row groups."""

    number: int  # of the part, from 0
    first: int  # number of its first record in the file
    start: int
    end: int


class RawFile(NamedTuple):
    """One input file, or a part of one. Only `origin` may depend on where it lies."""

    path: Path | RemotePath
    relative: str  # to the source's root, with forward slashes
    hash: str  # SHA-256 of the whole file's bytes
    part: Part | None = None  # None: all of it
    licence: str | None = None  # of the folder, for the readers of source trees


class Limits(NamedTuple):
    """What a reader may hold or spend on one record or file, and with what it extracts pages."""

    document_bytes: int = 32 << 20
    file_bytes: int = 64 << 30  # decompressed
    ratio: int = 1000  # decompressed to compressed
    extractor: Extractor | None = None  # shared by the files of a unit, for the readers of web pages


@dataclass(slots=True)
class Row:
    """A record as it lies in its file: its number from 0, its byte offset (-1 if unknown), its value."""

    number: int
    offset: int
    value: Any
    raw: bytes = b""


@dataclass(slots=True)
class Document:
    """A document of one of the kinds: `text`; `messages`; or `messages` (the prompt), `chosen`, `rejected`."""

    place: str = ""  # of the record in its file: its number, and "/" its part where a record holds several
    offset: int = -1  # byte offset of the record in the (decompressed) file, -1 if unknown
    text: str | None = None
    messages: list[Message] | None = None
    chosen: list[Message] | None = None
    rejected: list[Message] | None = None
    created: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Problem:
    """A record, or the rest of a file, that cannot be read."""

    place: str
    offset: int
    error: str
    sample: bytes = b""


@dataclass(slots=True)
class Skipped:
    """A record that is sound but not wanted."""

    reason: str


Item = Document | Problem | Skipped


class BadRecordError(Exception):
    """A record is not what its reader expects. The message says what was found and what was expected."""


class SkipRecord(Exception):  # noqa: N818 (a decision, not an error)
    """A record is sound but not wanted; the message is the reason under which it is counted."""


class BrokenFileError(Exception):
    """The rest of a file cannot be read. What came before it stands."""

    def __init__(self, message: str, offset: int):
        super().__init__(message)
        self.offset = offset  # decompressed bytes delivered before the error


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def string_at(row: Any, key: str) -> str:
    """The string at a key of a record, as `value_at` finds it. Raises BadRecordError if it is none or missing."""
    value = value_at(row, key)
    if type(value) is not str:
        raise BadRecordError(f"'{key}' is {kind_of(value)}, expected a string")
    return value


def optional_string(row: Any, key: str) -> str:
    """As `string_at`, but "" where the key is missing or null."""
    if not isinstance(row, dict) or row.get(key) is None:
        return ""
    return string_at(row, key)


def list_at(row: Any, key: str) -> list[Any]:
    """The list at a dotted key of a record. Raises BadRecordError if it is missing, empty or no list."""
    value = value_at(row, key)
    if not isinstance(value, list):
        raise BadRecordError(f"'{key}' is {kind_of(value)}, expected a list")
    if not value:
        raise BadRecordError(f"'{key}' is an empty list")
    return value


def value_at(row: Any, key: str) -> Any:
    """The value at a key of a record; "page.body" is the `body` of `page`, unless that is itself a key."""
    if type(row) is dict and key in row:
        return row[key]
    value = row
    for part in key.split("."):
        if not isinstance(value, dict):
            raise BadRecordError(f"looking for '{key}': found {kind_of(value)}, expected an object with '{part}'")
        if part not in value:
            keys = ", ".join(sorted(map(str, value))[:12])
            raise BadRecordError(f"'{key}' is missing; the record has: {keys or 'no keys'}")
        value = value[part]
    return value


def kind_of(value: Any) -> str:
    """What a JSON value is, for a message."""
    names = {type(None): "null", bool: "a Boolean", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value)) or {list: "a list", dict: "an object"}.get(type(value), type(value).__name__)


def scalars(row: dict[str, Any], without: Iterable[str] = (), longest: int = 1000) -> dict[str, Any]:
    """The fields of a record that are worth keeping as metadata: scalars, and strings up to `longest`."""
    kept = {}
    for key, value in row.items():
        kind = type(value)
        if kind is str:
            wanted = len(value) <= longest
        else:
            wanted = kind is int or kind is bool or (kind is float and math.isfinite(value))
        if wanted and key not in without:
            kept[key] = value
    return kept


def whole_file(file: RawFile, data: Iterator[bytes], limit: int) -> bytes:
    """All bytes of a file. Raises BrokenFileError if it is broken or longer than `limit`."""
    parts, size = [], 0
    for chunk in data:
        size += len(chunk)
        if size > limit:
            raise BrokenFileError(f"the file is one record of over {limit} bytes (max_document_bytes)", 0)
        parts.append(chunk)
    return b"".join(parts)
