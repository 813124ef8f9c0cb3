"""Decompression in bounded memory: chunks of bytes, as many as are sound, then an error that says where."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from curation.read.record import BrokenFileError, Limits, Part
from curation.read.stores import RemotePath

COMPRESSED = 1 << 16  # bytes read at once
CHUNK = 1 << 18  # most bytes delivered at once
RATIO_FROM = 64 << 20  # decompressed bytes up to which no ratio is suspicious
MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
SUFFIXES = (".gz", ".zst", ".bz2", ".xz")


def chunks(path: Path | RemotePath, limits: Limits) -> Iterator[bytes]:
    """The decompressed bytes of a file, which is recognised by its first bytes and not by its name.

    Raises BrokenFileError when the data is corrupt or cut off (every byte before that has been delivered), or
    when it grows beyond `limits.file_bytes` or `limits.ratio`.
    """
    size, delivered = path.stat().st_size, 0
    for chunk in _chunks(path):
        grown = delivered + len(chunk)
        if grown > limits.file_bytes:
            raise BrokenFileError(f"over {limits.file_bytes} bytes decompressed (max_file_bytes)", delivered)
        if grown > RATIO_FROM and grown > size * limits.ratio:
            raise BrokenFileError(f"grows over {limits.ratio} times its size (max_ratio)", delivered)
        yield chunk
        delivered = grown


def line_chunks(path: Path | RemotePath, part: Part) -> tuple[int, Iterator[bytes]]:
    """The lines of a plain file that begin in the bytes [part.start, part.end): where the first of them begins,
    and their bytes, to the end of the last.
    """
    begin = part.start and _line_begin(path, part.start)
    return begin, _lines_between(path, begin, part.end)


def _line_begin(path: Path | RemotePath, place: int) -> int:
    """Where the first line begins that does so at `place` or after; the size of the file if none does."""
    place -= 1  # a line that begins at `place` follows a line end
    with path.open("rb") as file:
        file.seek(place)
        while chunk := file.read(CHUNK):
            if (found := chunk.find(b"\n")) >= 0:
                return place + found + 1
            place += len(chunk)
    return place


def _lines_between(path: Path | RemotePath, begin: int, end: int) -> Iterator[bytes]:
    if begin >= end:
        return
    end = _line_begin(path, end)
    with path.open("rb") as file:
        file.seek(begin)
        while begin < end and (chunk := file.read(min(CHUNK, end - begin))):
            begin += len(chunk)
            yield chunk


def compression(path: Path | RemotePath) -> str | None:
    """gzip, bzip2, xz, zstd or None, from the first bytes of a file."""
    with path.open("rb") as file:
        start = file.read(6)
    return next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)


def plain_name(name: str) -> str:
    """A file name in lower case without the suffix of a compression: "a.JSONL.gz" -> "a.jsonl"."""
    lower = name.lower()
    return next((lower.removesuffix(suffix) for suffix in SUFFIXES if lower.endswith(suffix)), lower)


def _chunks(path: Path | RemotePath) -> Iterator[bytes]:
    name = compression(path)
    with path.open("rb") as file:
        if name == "zstd":
            yield from _zstd(file)
        elif name:
            yield from _members(file, name)
        else:
            while chunk := file.read(CHUNK):
                yield chunk


def _zstd(file: BinaryIO) -> Iterator[bytes]:
    delivered = 0
    stream = pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")
    while True:
        try:
            chunk = stream.read(COMPRESSED)
        except OSError as error:
            raise BrokenFileError(f"zstd: {error}", delivered) from None
        if not chunk:
            return
        delivered += len(chunk)
        yield chunk


class _Gzip:
    """zlib's decompressor with the interface of bz2 and lzma, and a copy of its state to go back to."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)

    def decompress(self, data: bytes, most: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, most)

    def copy(self) -> _Gzip:
        twin = _Gzip.__new__(_Gzip)
        twin._inner = self._inner.copy()
        return twin

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


def _decompressor(name: str) -> Any:
    if name == "gzip":
        return _Gzip()
    return bz2.BZ2Decompressor() if name == "bzip2" else lzma.LZMADecompressor(memlimit=512 << 20)


def _members(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The concatenated members of a gzip, bzip2 or xz file; zero bytes after a member are padding."""
    delivered, data, decompressor = 0, file.read(COMPRESSED), _decompressor(name)
    while True:
        before = decompressor.copy() if name == "gzip" else None
        try:
            chunk = decompressor.decompress(data, CHUNK)
        except (zlib.error, OSError, EOFError, lzma.LZMAError) as error:
            for chunk in _salvage(before, data):
                delivered += len(chunk)
                yield chunk
            raise BrokenFileError(f"{name}: {error}", delivered) from None
        if chunk:
            delivered += len(chunk)
            yield chunk
        if decompressor.eof:
            data = (decompressor.unused_data or file.read(COMPRESSED)).lstrip(b"\0")
            while not data and (more := file.read(COMPRESSED)):
                data = more.lstrip(b"\0")
            if not data:
                return
            decompressor = _decompressor(name)
        elif not decompressor.needs_input:
            data = b""
        else:
            data = file.read(COMPRESSED)
            if not data:
                raise BrokenFileError(f"{name}: the file ends within compressed data", delivered)


def _salvage(decompressor: _Gzip | None, data: bytes) -> Iterator[bytes]:
    """What can still be had from `data` byte by byte, after zlib refused it as a whole."""
    if decompressor is None:
        return
    try:
        yield decompressor.decompress(b"", CHUNK)
        for place in range(len(data)):
            yield decompressor.decompress(data[place : place + 1], CHUNK)
    except zlib.error:
        return
