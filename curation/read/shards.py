"""Writing rows as Parquet shards of bounded size, in bounded memory, each complete or absent."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.files import atomic

GROUP_ROWS = 4096
GROUP_BYTES = 16 << 20  # of text in a row group


class ShardWriter:
    """Appends rows to `<folder>/<name>-00000.parquet` and on. A context manager; an error leaves no partial file.

    A shard ends with the row that brings its text to `shard_bytes`, so that what is in it depends on the rows
    alone.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema, shard_bytes: int):
        self.folder, self.name, self.schema, self.shard_bytes = folder, name, schema, shard_bytes
        self.shards = 0
        self._rows: list[dict[str, Any]] = []
        self._group_bytes = self._bytes = 0
        self._stack = contextlib.ExitStack()
        self._file: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any], size: int) -> None:
        """Append a row with `size` bytes of text."""
        self._rows.append(row)
        self._group_bytes += size
        self._bytes += size
        if len(self._rows) >= GROUP_ROWS or self._group_bytes >= GROUP_BYTES:
            self._flush()
        if self._bytes >= self.shard_bytes:
            self._end_shard()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._file is None:
            temporary = self._stack.enter_context(atomic(self.folder / f"{self.name}-{self.shards:05d}.parquet"))
            self._file = self._stack.enter_context(pq.ParquetWriter(temporary, self.schema, compression="zstd"))
        columns = [pa.array([row.get(field.name) for row in self._rows], field.type) for field in self.schema]
        self._file.write_table(pa.Table.from_arrays(columns, schema=self.schema))
        self._rows, self._group_bytes = [], 0

    def _end_shard(self) -> None:
        self._flush()
        if self._file is not None:
            self._stack.close()
            self._file, self._bytes = None, 0
            self.shards += 1

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is None:
            self._end_shard()
        else:
            self._stack.__exit__(kind, error, trace)
