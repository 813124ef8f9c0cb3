"""Readers of the web: WARC and ARC archives, and folders of HTML files. One document a page, its main text.

A name or address from an archive is data only: it goes into metadata and never near the file system.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from typing import Any

from curation.config import Strict
from curation.extract import Engine, ExtractionError, decode
from curation.read.http import decoded_body
from curation.read.record import (
    BadRecordError,
    BrokenFileError,
    Document,
    Item,
    Limits,
    Problem,
    RawFile,
    Skipped,
    whole_file,
)
from curation.read.streams import RATIO_FROM, chunks

Place = tuple[str, int]  # number and byte offset of a record
HTML = ("text/html", "application/xhtml+xml")


class WebOptions(Strict):
    """Options of the readers of web pages."""

    extractor: Engine = "resiliparse"  # trafilatura: slower, an extra of the installation


def warc(file: RawFile, limits: Limits, options: WebOptions) -> Iterator[Item]:
    """The HTML and plain text responses of a WARC file (gzip or zstd by record or as a whole) or an ARC file."""
    try:
        start = next(iter(chunks(file.path, limits)), b"")
    except BrokenFileError:
        start = b""  # the archive reader finds it again, and says where
    return _arc(file, limits) if start.startswith(b"filedesc:") else _warc(file, limits)


def _warc(file: RawFile, limits: Limits) -> Iterator[Item]:
    from fastwarc.warc import ArchiveIterator

    number, offset, size = 0, 0, 0
    whole = file.path.stat().st_size
    with file.path.open("rb") as stream:
        records = ArchiveIterator(stream, parse_http=True, auto_decode="none")
        while True:
            last, offset = offset, -1
            try:
                record = next(records, None)
                if record is None:
                    return
                offset = record.stream_pos
                size += record.content_length
                if size > limits.file_bytes or (size > RATIO_FROM and size > whole * limits.ratio):
                    over = f"over {limits.file_bytes} bytes decompressed (max_file_bytes)"
                    if size <= limits.file_bytes:
                        over = f"grows over {limits.ratio} times its size (max_ratio)"
                    yield Problem(str(number), offset, f"{over}; the rest of the file is lost")
                    return
                yield _warc_record(record, (str(number), offset), limits)
            except (OSError, EOFError, ValueError) as error:
                where = f" after the record at byte {last}" if offset < 0 else ""
                yield Problem(str(number), offset, f"WARC: {error}{where}; the rest of the file is lost")
                return
            number += 1


def _warc_record(record, at: Place, limits: Limits) -> Item:
    kind = str(record.record_type).lower()
    if kind not in ("response", "conversion"):
        return Skipped(f"{kind} record")
    url = record.headers.get("WARC-Target-URI", "").strip().removeprefix("<").removesuffix(">")
    metadata = {"url": url, "crawled": record.headers.get("WARC-Date", "")}
    if kind == "conversion":  # text that a crawl made of a page (WET)
        headers = {"content-type": record.headers.get("Content-Type", "") + "; charset=utf-8"}
        return _response(record.reader.read, 200, headers, metadata, at, limits)
    if not record.is_http or record.http_headers is None:
        return Skipped("not an HTTP response")
    headers = {name.lower(): value for name, value in record.http_headers.asdict().items()}
    return _response(record.reader.read, record.http_headers.status_code, headers, metadata, at, limits)


def _response(
    read: Callable[[int], bytes],
    status: int | None,
    headers: dict[str, str],
    metadata: dict[str, Any],
    at: Place,
    limits: Limits,
) -> Item:
    """The document of one response; `read` gives at most so many bytes of its stored body."""
    if status is None or not 200 <= status < 300:
        return Skipped(f"status {status}")
    content_type, charset = _content_type(headers.get("content-type", ""))
    if content_type not in (*HTML, "text/plain", ""):
        return Skipped(f"content type {content_type}")
    stored = read(limits.document_bytes + 1)
    try:
        data = decoded_body(stored, headers, limits.document_bytes)
    except BadRecordError as error:
        return Problem(*at, str(error), stored[:1000])
    if max(len(stored), len(data)) > limits.document_bytes:
        return Problem(*at, f"a page of over {limits.document_bytes} bytes (max_document_bytes)", data[:1000])
    if not data.strip():
        return Skipped("empty body")
    if not content_type and b"<html" not in data[:1024].lower():
        return Skipped("no content type")
    if content_type == "text/plain":
        return Document(*at, text=decode(data, charset), metadata=metadata)
    return page(data, charset, metadata, at, limits)


def _content_type(header: str) -> tuple[str, str | None]:
    """Media type in lower case and charset, if any, of a Content-Type header."""
    kind, _, parameters = header.partition(";")
    charset = parameters.lower().partition("charset=")[2].partition(";")[0].strip(" \"'")
    return kind.strip().lower()[:60], charset or None


def page(data: bytes, charset: str | None, metadata: dict[str, Any], at: Place, limits: Limits) -> Item:
    """The document of an HTML page; a Problem where extraction fails; skipped where a page has no main text."""
    try:
        extracted = limits.extractor.extract(data, charset)
    except ExtractionError as error:
        return Problem(*at, str(error), data[:1000])
    if not extracted.text:
        return Skipped("no main text")
    if extracted.title:
        metadata["title"] = extracted.title[:1000]
    return Document(*at, text=extracted.text, created=extracted.created, metadata=metadata)


def _arc(file: RawFile, limits: Limits) -> Iterator[Item]:
    """ARC 1: for each record a line "URL address date type length", then that many bytes, then a line end."""
    source = _Bytes(chunks(file.path, limits))
    number = 0
    while True:
        offset = source.position
        try:
            line = source.line(1 << 16).strip()
            if not line and source.ended:
                return
            if not line:
                continue
            fields = line.decode("utf-8", "replace").split(" ")
            if len(fields) < 5 or not fields[-1].isdigit():
                yield Problem(str(number), offset, "no ARC record header; the rest of the file is lost", line)
                return
            length = int(fields[-1])
            data = source.take(length, limits.document_bytes + (1 << 16))
        except BrokenFileError as error:
            yield Problem(str(number), offset, f"ARC: {error}; the rest of the file is lost")
            return
        yield _arc_record(fields, data, (str(number), offset), limits)
        number += 1


def _arc_record(fields: list[str], data: bytes, at: Place, limits: Limits) -> Item:
    if fields[0].startswith("filedesc:"):
        return Skipped("filedesc record")
    end = b"\r\n\r\n" if b"\r\n\r\n" in data else b"\n\n"
    head, _, body = data.partition(end)
    status_line, *lines = head.decode("latin-1").splitlines() or [""]
    parts = status_line.split(" ")
    if not status_line.startswith("HTTP/") or len(parts) < 2 or not parts[1].isdigit():
        return Skipped("not an HTTP response")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    metadata = {"url": fields[0], "crawled": _arc_date(fields[-3])}
    return _response(lambda most: body[:most], int(parts[1]), headers, metadata, at, limits)


def _arc_date(text: str) -> str:
    try:
        return datetime.datetime.strptime(text, "%Y%m%d%H%M%S").strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return ""


class _Bytes:
    """Lines and runs of bytes from an iterator of chunks."""

    def __init__(self, source: Iterator[bytes]):
        self._source, self._buffer, self.position, self.ended = source, b"", 0, False

    def _more(self) -> bool:
        chunk = next(self._source, b"")
        self._buffer += chunk
        self.ended = not chunk and not self._buffer
        return bool(chunk)

    def line(self, limit: int) -> bytes:
        while b"\n" not in self._buffer and len(self._buffer) < limit and self._more():
            pass
        end = self._buffer.find(b"\n")
        return self._cut(end + 1 if end >= 0 else len(self._buffer))

    def take(self, size: int, keep: int) -> bytes:
        """The next `size` bytes, of which at most `keep` are held and given."""
        kept, left = [], size
        while left:
            if not self._buffer and not self._more():
                raise BrokenFileError(f"a record of {size} bytes is cut off after {size - left}", self.position)
            part = self._cut(min(left, len(self._buffer)))
            if size - left < keep:
                kept.append(part)
            left -= len(part)
        return b"".join(kept)

    def _cut(self, size: int) -> bytes:
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        self.position += size
        return part


def html_files(file: RawFile, limits: Limits, options: WebOptions) -> Iterator[Item]:
    """An HTML file a document."""
    try:
        data = whole_file(file, chunks(file.path, limits), limits.document_bytes)
    except BrokenFileError as error:
        yield Problem("0", error.offset, str(error))
        return
    yield page(data, None, {}, ("0", 0), limits)
