"""Files of records: JSON lines, JSON arrays, TSV, CSV, Parquet and Arrow, one bounded record at a time."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import orjson

from curation.read.columnar import arrow_rows, parquet_rows
from curation.read.record import BrokenFileError, Limits, Problem, RawFile, Row
from curation.read.streams import chunks, line_chunks, plain_name

Container = Literal["auto", "jsonl", "json", "tsv", "csv", "parquet", "arrow"]
SUFFIX_CONTAINERS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".tsv": "tsv",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}
BOM = b"\xef\xbb\xbf"  # with which some programs begin UTF-8 files


_CSV_FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^,]*))(,|\Z|)')


def rows(file: RawFile, limits: Limits, container: Container, columns: tuple[str, ...] | None = None):
    """The records of a file as Row, and a Problem for each that cannot be read.

    `container` "auto" goes by the suffix of the name (without .gz, .zst, .bz2 or .xz); what is not known is
    taken for JSON lines. `columns` names the fields of a TSV or CSV file; None takes them from its first line.
    """
    container = container_of(file, container)
    if container == "parquet":
        return parquet_rows(file, limits)
    if container == "arrow":
        return arrow_rows(file, limits)
    if container == "tsv":
        return tsv_rows(file, limits, columns)
    if container == "csv":
        return csv_rows(file, limits, columns)
    return array_rows(file, limits) if container == "json" else json_rows(file, limits)


def container_of(file: RawFile, container: Container) -> Container:
    """What "auto" stands for: what the name says, else JSON lines."""
    if container != "auto":
        return container
    name = plain_name(file.path.name)
    return next((kind for suffix, kind in SUFFIX_CONTAINERS.items() if name.endswith(suffix)), "jsonl")


def lines(file: RawFile, limits: Limits) -> Iterator[tuple[int, int, bytes] | Problem]:
    """(number, offset, bytes without the line end) of each line; a Problem for one that is too long.

    A line over `limits.document_bytes` is passed over without being held. Where the file breaks, the whole lines
    before stand, and a last Problem tells of the rest.
    """
    number, offset, source = 0, 0, chunks(file.path, limits)
    if file.part:
        number = file.part.first
        offset, source = line_chunks(file.path, file.part)
    held: list[bytes] = []  # of the line under way
    size, limit = 0, limits.document_bytes  # its bytes, and the most
    shown = min(limit, 1000)  # bytes of a line that is too long, for the quarantine's sample
    try:
        for chunk in source:
            *whole, rest = chunk.split(b"\n")
            for line in whole:
                size += len(line)
                if held:
                    line = b"".join((*held, line))
                    held = []
                if size > limit:
                    error = f"a line of {size} bytes, over the {limit} of max_document_bytes"
                    yield Problem(str(number), offset, error, line[:shown])
                else:
                    yield number, offset, line[:-1] if line.endswith(b"\r") else line
                number, offset, size = number + 1, offset + size + 1, 0
            if rest:
                size += len(rest)
                held.append(rest)
                if size > limit:
                    held = [b"".join(held)[:shown]]
    except BrokenFileError as error:
        yield Problem(str(number), offset, f"{error}; the rest of the file is lost", b"".join(held)[:1000])
        return
    if size > limit:
        yield Problem(
            str(number), offset, f"a line of {size} bytes, over the {limit} of max_document_bytes", held[0]
        )
    elif size:
        yield number, offset, b"".join(held).removesuffix(b"\r")


def json_rows(file: RawFile, limits: Limits) -> Iterator[Row | Problem]:
    """JSON lines. Blank lines are passed over."""
    for line in lines(file, limits):
        if isinstance(line, Problem):
            yield line
        elif line[2].strip():
            yield parse(*line)


def parse(number: int, offset: int, raw: bytes) -> Row | Problem:
    """One JSON value, or a Problem that says why it is none."""
    try:
        return Row(number, offset, json_value(raw), raw)
    except ValueError as error:
        return Problem(str(number), offset, str(error), raw)


def json_value(raw: bytes) -> Any:
    """The value of a JSON text, with or without a byte order mark. NaN and infinities, which Python's own writer
    produces, are let through.

    Raises ValueError that says what is wrong: invalid UTF-8, a lone surrogate, no JSON.
    """
    raw = raw.removeprefix(BOM)
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if b"NaN" in raw or b"Infinity" in raw:
            with contextlib.suppress(ValueError, RecursionError):
                return json.loads(raw)
        raise ValueError(explain(raw, error)) from None


def explain(raw: bytes, error: Exception) -> str:
    """Why bytes are no JSON, invalid UTF-8 told apart."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as wrong:
        return f"invalid UTF-8: {wrong.reason} at byte {wrong.start} of the record"
    return f"not JSON: {error}"


# What matters for finding where an element of an array ends: whole strings, quotes left open, brackets, commas.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{},]', re.DOTALL)


def array_rows(file: RawFile, limits: Limits) -> Iterator[Row | Problem]:
    """The elements of a JSON array, found by their brackets so that the whole is never held.

    A file that does not begin with a bracket is read as JSON lines.
    """
    try:
        start = next(iter(chunks(file.path, limits)), b"").removeprefix(BOM).lstrip()
    except BrokenFileError:
        start = b""
    if not start.startswith(b"["):
        yield from json_rows(file, limits)
        return
    yield from _elements(file, limits)


def _elements(file: RawFile, limits: Limits) -> Iterator[Row | Problem]:
    buffer, base, place, begin, depth, number = bytearray(), 0, 0, 0, 0, 0
    open_string, limit = False, limits.document_bytes
    try:
        for chunk in chunks(file.path, limits):
            del buffer[:begin]
            buffer += chunk
            base, place, begin = base + begin, place - begin, 0
            if open_string:
                place, open_string = _string_end(buffer, place)
            while not open_string and (match := _TOKEN.search(buffer, place)):
                token, place = match[0], match.end()
                open_string = token == b'"'  # it goes on in the next chunk
                if depth == 1 and token in b",]":
                    if element := bytes(buffer[begin : match.start()]).strip():
                        yield parse(number, base + begin, element)
                        number += 1
                    begin = place
                if token in b"[{":
                    depth += 1
                    begin = place if depth == 1 else begin
                elif token in b"]}":
                    depth -= 1
                    if depth == 0:
                        rest = bytes(buffer[place:]).strip()
                        if token == b"}" or rest:
                            error = "data after the end of the array (brackets that do not match?); it is lost"
                            yield Problem(str(number), base + place, error, rest or bytes(buffer[begin:place]))
                        return
            if open_string:
                place = len(buffer)
            if len(buffer) - begin > limit:
                error = f"an element of over {limit} bytes (max_document_bytes); the rest of the file is lost"
                yield Problem(str(number), base + begin, error, bytes(buffer[begin : begin + 1000]))
                return
    except BrokenFileError as error:
        sample = bytes(buffer[begin : begin + 1000])
        yield Problem(str(number), base + begin, f"{error}; the rest of the file is lost", sample)
        return
    yield Problem(str(number), base + begin, "the JSON array is not closed", bytes(buffer[begin : begin + 1000]))


def _string_end(buffer: bytearray, place: int) -> tuple[int, bool]:
    """The place after the quote that closes a string, searched from `place` in it; whether it is still open."""
    while (quote := buffer.find(b'"', place)) >= 0:
        before = quote
        while buffer[before - 1] == 0x5C:  # a backslash
            before -= 1
        if (quote - before) % 2 == 0:
            return quote + 1, False
        place = quote + 1
    return len(buffer), True


def tsv_rows(file: RawFile, limits: Limits, columns: tuple[str, ...] | None) -> Iterator[Row | Problem]:
    """Tab-separated lines without quoting; the fields are strings."""
    for line in lines(file, limits):
        if isinstance(line, Problem):
            yield line
            continue
        number, offset, raw = line
        if not raw.strip():
            continue
        try:
            fields = raw.removeprefix(BOM).decode("utf-8").split("\t")
        except UnicodeDecodeError as wrong:
            yield Problem(str(number), offset, f"invalid UTF-8: {wrong.reason} at byte {wrong.start}", raw)
            continue
        if columns is None:
            columns = tuple(field.lstrip("#") for field in fields)
        elif len(fields) != len(columns):
            yield Problem(str(number), offset, f"{len(fields)} fields, expected {len(columns)}: {columns}", raw)
        else:
            yield Row(number, offset, dict(zip(columns, fields, strict=True)), raw)


def csv_rows(file: RawFile, limits: Limits, columns: tuple[str, ...] | None) -> Iterator[Row | Problem]:
    """Comma-separated records with quoted fields, which may hold commas, newlines and doubled quotes (RFC 4180).

    A record ends with the line that closes its last quote. The fields are strings; a column without a name is
    "column<n>". A quote that nothing closes is one Problem, with what it has swallowed.
    """
    held: list[bytes] = []
    begin, number, quotes, size = 0, 0, 0, 0
    for line in lines(file, limits):
        if isinstance(line, Problem):
            yield line
            held, quotes, size = [], 0, 0
            continue
        _, offset, raw = line
        if not held:
            if not raw.strip():
                continue
            begin = offset
        held.append(raw)
        quotes, size = quotes + raw.count(b'"'), size + len(raw) + 1
        if quotes % 2 and size <= limits.document_bytes:
            continue
        record = b"\n".join(held)
        if quotes % 2:
            yield _open_quote(number, begin, record, f"over the {limits.document_bytes} of max_document_bytes")
        else:
            fields = _csv_fields(number, begin, record)
            if isinstance(fields, Problem):
                yield fields
            elif columns is None:
                columns = tuple(name or f"column{place}" for place, name in enumerate(fields))
                number -= 1  # the line of names is no record
            elif len(fields) != len(columns):
                yield Problem(
                    str(number), begin, f"{len(fields)} fields, expected {len(columns)}: {columns}", record[:1000]
                )
            else:
                yield Row(number, begin, dict(zip(columns, fields, strict=True)), record)
        held, quotes, size, number = [], 0, 0, number + 1
    if held:
        yield _open_quote(number, begin, b"\n".join(held), "to the end of the file")


def _csv_fields(number: int, offset: int, record: bytes) -> list[str] | Problem:
    """The fields of one record, whose quotes are all closed."""
    try:
        text = record.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as wrong:
        error = f"invalid UTF-8: {wrong.reason} at byte {wrong.start}"
        return Problem(str(number), offset, error, record[:1000])
    fields = []
    for match in _CSV_FIELD.finditer(text):
        quoted, plain, end = match.groups()
        if quoted is None and '"' in plain:
            return Problem(str(number), offset, f"a quote inside the unquoted field {len(fields)}", record[:1000])
        fields.append(plain if quoted is None else quoted.replace('""', '"'))
        if not end:
            break
    if match.end() != len(text):
        error = f"text after the closing quote of field {len(fields) - 1}, expected a comma"
        return Problem(str(number), offset, error, record[:1000])
    return fields


def _open_quote(number: int, offset: int, record: bytes, how_far: str) -> Problem:
    error = f"a quote is not closed in {len(record)} bytes, {how_far}; they are lost"
    return Problem(str(number), offset, error, record[:1000])
