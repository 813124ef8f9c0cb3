"""Files that are complete or absent: atomic writes, content hashes, Parquet with fixed settings, arrays."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import mmap
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TEMPORARY = ".tmp-"
_process, _number = secrets.token_hex(4), itertools.count()  # on whatever machine, no two have a name in common
NEARLY_FULL = 1 << 20  # bytes


@contextlib.contextmanager
def atomic(path: Path, synced: bool = True) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success it is fsynced and renamed to `path`, else removed.

    The sibling may be made as a file or as a folder. A reader never sees a half-written `path`, unless it was not
    `synced` and the machine failed, where a kill of the process is none: then it may be empty, cut or gone.
    """
    path = Path(path)
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{_process}-{next(_number)}-{path.name}"
    try:
        yield temporary
        if synced:
            if temporary.is_dir():
                for file in sorted(temporary.rglob("*")):
                    sync(file)
            sync(temporary)
        os.replace(temporary, path)
        if synced:
            sync(path.parent)
    except BaseException as error:
        remove(temporary)
        if not isinstance(error, OSError):
            raise
        if error.errno is not None:
            raise
        # numpy counts what could not be written and says neither why nor where
        free = shutil.disk_usage(path.parent).free
        code = errno.ENOSPC if free < NEARLY_FULL else errno.EIO
        raise OSError(code, f"{os.strerror(code)} ({error}; {free} bytes are free)", str(path)) from error


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there; another process may be doing the same."""
    if path.is_dir() and not path.is_symlink():
        with contextlib.suppress(FileNotFoundError):
            for child in path.iterdir():
                remove(child)
            path.rmdir()
    else:
        path.unlink(missing_ok=True)


def below(folder: Path) -> Iterator[Path]:
    """All files and folders at any depth, unlike `rglob` also while others rename and remove some of them."""
    for place, folders, files in os.walk(folder):
        yield from (Path(place) / name for name in (*folders, *files))


def remove_unfinished(folder: Path) -> None:
    """Remove what was being written below a folder when its writer was killed."""
    for path in below(folder):
        if path.name.startswith(TEMPORARY):
            remove(path)


def write_bytes(path: Path, data: bytes, synced: bool = True) -> None:
    with atomic(path, synced) as temporary, open(temporary, "wb", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]


def write_json(path: Path, value: Any, synced: bool = True) -> None:
    """Write JSON with sorted keys. A lone surrogate, of a file name that is no UTF-8, is read back as it was.

    What is not synced is soon written anew or removed: it is in one line, which takes a quarter of the time.
    """
    text = json.dumps(value, indent=1 if synced else None, ensure_ascii=False, sort_keys=True) + "\n"
    write_bytes(path, text.encode("utf-8", "surrogatepass"), synced)


def read_json(path: Path) -> Any:
    with open(path, "rb", buffering=0) as file:
        return json.loads(file.read())


def write_parquet(
    path: Path, table: pa.Table, row_group_size: int = 1 << 16, dictionary: bool | list[str] = True
) -> None:
    """Write a table as Parquet, atomically. The bytes depend on the table and the pyarrow version alone.

    `dictionary`: the columns of few values, where it is known which those are.
    """
    with atomic(path) as temporary:
        pq.write_table(
            table, temporary, compression="zstd", row_group_size=row_group_size, use_dictionary=dictionary
        )


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """One Parquet file, or some columns of it. Where files are small and many, `pyarrow.parquet.read_table` takes
    five times as long: it looks for a data set first, and has another thread read."""
    with open_parquet(path) as file:
        return file.read(columns, use_threads=False)


@contextlib.contextmanager
def open_parquet(path: Path | str, **options: Any) -> Iterator[pq.ParquetFile]:
    """One Parquet file, read by the thread that asks: to wait for another costs more than a local file's reading.

    `options`: those of `pyarrow.parquet.ParquetFile`.
    """
    with pa.OSFile(str(path)) as source, pq.ParquetFile(source, pre_buffer=False, **options) as file:
        yield file


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as a .npy file, complete or absent."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)


def map_array(path: Path) -> np.ndarray:
    """What `write_array` wrote, read where it lies. `numpy.load` would open the file three times."""
    with open(path, "rb", buffering=0) as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if np.lib.format.read_magic(data) != (1, 0):
        raise ValueError(f"{path}: no array of the version that is written here")
    shape, in_columns, dtype = np.lib.format.read_array_header_1_0(data)
    return np.ndarray(shape, dtype, data, data.tell(), order="F" if in_columns else "C")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_hash(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces), 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
