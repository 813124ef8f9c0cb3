"""The body of an HTTP response as it was stored: chunks joined, compression undone, within a limit."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from curation.read.record import BadRecordError


def decoded_body(data: bytes, headers: Mapping[str, str], limit: int) -> bytes:
    """A stored body without its transfer and content encodings; at most one byte over `limit` is given.

    Archives often hold bodies that are decoded already while the headers still tell of an encoding, so a body that
    does not begin as its encoding must is taken as it is. Raises BadRecordError for a body that is corrupt, or
    encoded in a way that is not supported. `headers` has names in lower case.
    """
    if "chunked" in headers.get("transfer-encoding", "").lower():
        data = unchunked(data)
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return data
    if encoding in ("gzip", "x-gzip"):
        return _inflate(data, 31, limit) if data.startswith(b"\x1f\x8b") else data
    if encoding == "deflate":
        return _inflate(data, 15 if data[:1] == b"\x78" else -15, limit)
    raise BadRecordError(f"content encoding '{encoding[:40]}' is not supported; gzip and deflate are")


def unchunked(data: bytes) -> bytes:
    """A body of chunks joined. One that has no chunks is given as it is, one that is cut off as far as it goes."""
    parts, place = [], 0
    while (end := data.find(b"\n", place, place + 1024)) >= 0:
        try:
            size = int(data[place:end].split(b";")[0].strip(), 16)
        except ValueError:
            size = -1
        if size < 0:
            break
        if size == 0:
            return b"".join(parts)
        parts.append(data[end + 1 : end + 1 + size])
        place = end + 1 + size
        place += 2 if data[place : place + 2] == b"\r\n" else 1
    return b"".join(parts) if parts else data


def _inflate(data: bytes, window: int, limit: int) -> bytes:
    try:
        return zlib.decompressobj(window).decompress(data, limit + 1)
    except zlib.error as error:
        raise BadRecordError(f"compressed HTTP body: {error}") from None
