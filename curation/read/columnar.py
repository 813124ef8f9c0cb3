"""Rows of columnar files, Parquet and Arrow IPC (the file and the stream format), a bounded batch at a time."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curation.read.record import Limits, Problem, RawFile, Row
from curation.read.streams import RATIO_FROM

BATCH_ROWS = 256  # rows of a columnar file at once
_MAGIC = b"ARROW1"  # of the IPC file format, whose messages begin 8 bytes on
_DICTIONARY, _RECORDS = 2, 3  # kinds of messages that have a body


def parquet_rows(file: RawFile, limits: Limits) -> Iterator[Row | Problem]:
    """The rows of a Parquet file, a few hundred at a time: bounded, if its values are."""
    number = 0
    try:
        with open_parquet(file) as parquet:
            size = parquet_bytes(parquet)
            if size > limits.file_bytes:
                yield Problem("0", -1, f"Parquet of {size} bytes, over the {limits.file_bytes} of max_file_bytes")
                return
            groups = list(range(parquet.num_row_groups))
            if file.part:
                number, groups = file.part.first, groups[file.part.start : file.part.end]
            for table in bounded(parquet.iter_batches(BATCH_ROWS, groups), file, limits):
                yield from _batch_rows(table, number)
                number += len(table)
    except (pa.ArrowException, OSError, ValueError) as error:
        yield Problem(str(number), -1, f"Parquet: {error}; the rest of the file is lost")


def open_parquet(file: RawFile) -> pq.ParquetFile:
    """The file, to be closed by the caller. Raises pyarrow's errors or OSError where it is none."""
    return pq.ParquetFile(file.path if isinstance(file.path, Path) else file.path.open())


def parquet_bytes(parquet: pq.ParquetFile) -> int:
    """Bytes of all columns when decompressed, as the file itself says."""
    return sum(parquet.metadata.row_group(group).total_byte_size for group in range(parquet.num_row_groups))


def arrow_rows(file: RawFile, limits: Limits) -> Iterator[Row | Problem]:
    """The rows of an Arrow IPC file or stream, such as those of a Hugging Face dataset that was saved to disk."""
    number = 0
    try:
        with _arrow_file(file) as source:
            in_file = source.read(len(_MAGIC)) == _MAGIC
            _check_bodies(source, 8 if in_file else 0, file, limits)
            source.seek(0)
            for batch in bounded(_arrow_batches(source, in_file), file, limits):
                for start in range(0, len(batch), BATCH_ROWS):
                    part = batch.slice(start, BATCH_ROWS)
                    yield from _sound_rows(part, number)
                    number += len(part)
    except (pa.ArrowException, OSError, ValueError, struct.error) as error:
        yield Problem(str(number), -1, f"Arrow IPC: {error}; the rest of the file is lost")


def _sound_rows(part: pa.RecordBatch, first: int) -> Iterator[Row | Problem]:
    """The rows after the offsets in them were checked, which pyarrow follows wherever they point."""
    try:
        part.validate(full=True)
    except pa.ArrowInvalid as error:
        if len(part) == 1:
            yield Problem(str(first), -1, f"Arrow IPC: {error}")
            return
        half = len(part) // 2
        yield from _sound_rows(part.slice(0, half), first)
        yield from _sound_rows(part.slice(half), first + half)
        return
    yield from _batch_rows(part, first)


@contextlib.contextmanager
def _arrow_file(file: RawFile) -> Iterator[pa.NativeFile]:
    local = isinstance(file.path, Path)
    with pa.memory_map(str(file.path)) if local else pa.PythonFile(file.path.open(), "r") as source:
        yield source


def _arrow_batches(source: pa.NativeFile, in_file: bool) -> Iterator[pa.RecordBatch]:
    """The batches, of whose buffers nothing but their sizes is checked. Raises ArrowInvalid."""
    if in_file:
        reader = pa.ipc.open_file(source)
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        batches = iter(pa.ipc.open_stream(source))
    for batch in batches:
        batch.validate()  # before its bytes are counted, for which pyarrow follows its offsets
        yield batch


def _check_bodies(source: pa.NativeFile, start: int, file: RawFile, limits: Limits) -> None:
    """Raise ValueError where compressed buffers say that they are far larger than the file can honestly hold.

    pyarrow allocates what they say before it looks at the data. Messages are read without their buffers being
    decompressed; an error in them is left to the reader, which keeps the batches before it.
    """
    size, said = file.path.stat().st_size, 0
    source.seek(start)
    with contextlib.suppress(pa.ArrowException, OSError, EOFError, StopIteration):
        for message in pa.ipc.MessageReader.open_stream(source):
            said += _decompressed(message)
            if said > limits.file_bytes:
                raise ValueError(f"over {limits.file_bytes} bytes decompressed (max_file_bytes)")
            if said > RATIO_FROM and said > size * limits.ratio:
                raise ValueError(f"grows over {limits.ratio} times its size (max_ratio)")


def _decompressed(message: pa.ipc.Message) -> int:
    """Bytes that a message's compressed buffers say they hold; 0 if they are not compressed.

    By the flatbuffers of Arrow's format (Message.fbs): a table begins with the distance back to its vtable, which
    holds a 16-bit place for each field. A compressed buffer begins with its length, or -1 if it is stored.
    """
    head = memoryview(message.metadata)

    def number(form: str, place: int) -> int:
        return struct.unpack_from(form, head, place)[0]

    def field(table: int, position: int) -> int:
        vtable = table - number("<i", table)
        entry = 4 + 2 * position
        place = number("<H", vtable + entry) if entry < number("<H", vtable) else 0
        return table + place if place else 0

    def below(table: int, position: int) -> int:
        place = field(table, position)
        return place + number("<I", place) if place else 0

    root = number("<I", 0)
    kind = number("<B", field(root, 1)) if field(root, 1) else 0
    if kind not in (_DICTIONARY, _RECORDS):
        return 0
    batch = below(root, 2)
    if kind == _DICTIONARY:
        batch = below(batch, 1)
    buffers = below(batch, 2)
    if not below(batch, 3) or not buffers:  # no compression
        return 0
    body, total = memoryview(message.body), 0
    for one in range(number("<I", buffers)):
        offset, length = struct.unpack_from("<qq", head, buffers + 4 + 16 * one)
        if length >= 8:
            total += max(0, struct.unpack_from("<q", body, offset)[0])
    return total


def bounded(batches: Iterator[pa.RecordBatch], file: RawFile, limits: Limits) -> Iterator[pa.RecordBatch]:
    """The batches, as long as they are not far more than the file can honestly hold.

    A few kilobytes can stand for terabytes: a long value named once and repeated by reference. Raises ValueError.
    """
    size, seen = file.path.stat().st_size, 0
    for batch in batches:
        seen += max(batch.nbytes, batch.num_rows)
        if seen > RATIO_FROM and seen > size * limits.ratio:
            raise ValueError(f"grows over {limits.ratio} times its size (max_ratio)")
        if seen > limits.file_bytes:
            raise ValueError(f"over {limits.file_bytes} bytes decompressed (max_file_bytes)")
        yield batch


def _batch_rows(table: pa.RecordBatch, first: int) -> Iterator[Row | Problem]:
    try:
        values = table.to_pylist()
    except UnicodeDecodeError:  # Parquet does not check that its strings are UTF-8
        if len(table) > 1:
            for place in range(len(table)):
                yield from _batch_rows(table.slice(place, 1), first + place)
            return
        yield Problem(str(first), -1, "invalid UTF-8 in a string column")
        return
    for place, value in enumerate(values):
        yield Row(first + place, -1, value)
