"""Remote stores of raw files: s3://, gs:// and the like through pyarrow, any other scheme through fsspec.

A remote file is read where it lies, and no copy is kept. Credentials and endpoints come from the environment, as
the store's own tools take them (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL ...), never from a pipeline file.
"""

from __future__ import annotations

import functools
import io
import time
from typing import NamedTuple

import pyarrow.fs as pafs

from curation.config import ConfigError

NATIVE = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")  # the schemes that pyarrow reads itself
BUFFER = 8 << 20  # bytes of one request
ATTEMPTS = 4
PAUSE = 0.5  # seconds before the second attempt, doubled before each one after


class StoreError(Exception):
    """A remote store does not answer; no record is to blame."""


class _Status(NamedTuple):
    st_size: int
    st_mtime_ns: int


class RemotePath(NamedTuple):
    """A file of a remote store: what readers use of pathlib.Path."""

    root: str  # URI of the source's root
    key: str  # of the file, in the store
    relative: str  # to the root
    size: int
    changed: int  # ns since 1970; 0 where the store does not say

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    def stat(self) -> _Status:
        return _Status(self.size, self.changed)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """The file's bytes, which can be sought in. Reading raises StoreError when the store fails for good."""
        return io.BufferedReader(_Remote(self), BUFFER)

    def __str__(self) -> str:
        return f"{self.root.partition('?')[0].rstrip('/')}/{self.relative}"


def is_remote(root: str) -> bool:
    return "://" in root


def remote_files(root: str) -> list[RemotePath]:
    """All files below a URI, sorted by their path. Raises ConfigError where store or folder are not there."""
    system, base = _system(root)
    try:
        found = system.get_file_info(pafs.FileSelector(base, recursive=True))
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"root '{root}': cannot be listed: {error}; check the address and the access") from None
    prefix = base.rstrip("/") + "/"
    files = [
        RemotePath(root, info.path, info.path.removeprefix(prefix), info.size or 0, info.mtime_ns or 0)
        for info in found
        if info.type == pafs.FileType.File
    ]
    return sorted(files, key=lambda file: file.relative)


@functools.cache
def _system(root: str) -> tuple[pafs.FileSystem, str]:
    scheme = root.partition("://")[0]
    try:
        if scheme in NATIVE:
            return pafs.FileSystem.from_uri(root)
        import fsspec

        inner, base = fsspec.core.url_to_fs(root)
        return pafs.PyFileSystem(pafs.FSSpecHandler(inner)), base
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"root '{root}': no store of this kind: {error}") from None


class _Remote(io.RawIOBase):
    """A remote file whose requests are repeated when they fail."""

    def __init__(self, path: RemotePath):
        self._path, self._place = path, 0
        self._file = self._again(lambda: _system(path.root)[0].open_input_file(path.key))

    def _again(self, request):
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return request()
            except OSError as error:
                if attempt == ATTEMPTS:
                    raise StoreError(f"{self._path}: {error} ({ATTEMPTS} attempts)") from error
                time.sleep(PAUSE * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._path.size}[whence]
        return self._place

    def readinto(self, buffer) -> int:
        size = min(len(buffer), self._path.size - self._place)
        if size <= 0:
            return 0
        data = self._again(lambda: self._file.read_at(size, self._place))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
