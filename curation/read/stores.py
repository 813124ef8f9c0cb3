"""Remote stores of raw files: s3://, gs:// and the like through pyarrow, any other scheme through fsspec.

A remote file is read where it lies, and no copy is kept. Credentials and endpoints come from the environment, as
the store's own tools take them (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL ...), never from a pipeline file.
"""

from __future__ import annotations

import functools
import io
import os
import re
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow.fs as pafs

from curation.config import ConfigError

NATIVE = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")  # the schemes that pyarrow reads itself
S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
BUFFER = 8 << 20  # bytes of one request
ATTEMPTS = 4
PAUSE = 0.5  # seconds before the second attempt, doubled before each one after
SILENCE = 15  # seconds without a byte after which S3 is asked again
S3_ATTEMPTS = 3  # of the client itself, within each of ours
# What no other attempt will change.
_FINAL = re.compile(r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE_DOES|EXPIRED_TOKEN|status 40[13]")

Result = TypeVar("Result")


class StoreError(Exception):
    """A remote store does not answer; no record is to blame."""


def again(name: str, request: Callable[[], Result]) -> Result:
    """The answer to a request, which is repeated when it fails. Raises StoreError when it fails for good.

    What is not there is a FileNotFoundError, at once.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return request()
        except FileNotFoundError:
            raise
        except OSError as error:
            if _FINAL.search(str(error)):
                raise StoreError(f"{name}: {error}; check bucket, credentials and what they allow") from error
            if attempt == ATTEMPTS:
                raise StoreError(f"{name}: {error} ({ATTEMPTS} attempts)") from error
            time.sleep(PAUSE * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


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
    system, base = file_system(root)
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


def file_system(root: str) -> tuple[pafs.FileSystem, str]:
    """The store of a URI and the place in it. Raises ConfigError for a URI of no store."""
    return _opened(root, next(filter(None, map(os.environ.get, S3_ENDPOINTS)), None))


@functools.cache
def _opened(root: str, endpoint: str | None) -> tuple[pafs.FileSystem, str]:
    scheme = root.partition("://")[0]
    try:
        if scheme == "s3":
            return _s3(root, endpoint)
        if scheme in ("gs", "gcs") and "retry_limit_seconds" not in root:  # else 15 minutes, each time
            return pafs.FileSystem.from_uri(f"{root}{'&' if '?' in root else '?'}retry_limit_seconds={SILENCE}")
        if scheme in NATIVE:
            return pafs.FileSystem.from_uri(root)
        import fsspec

        inner, base = fsspec.core.url_to_fs(root)
        return pafs.PyFileSystem(pafs.FSSpecHandler(inner)), base
    except (ValueError, ImportError) as error:
        raise ConfigError(f"root '{root}': no store of this kind: {error}") from None
    except OSError as error:
        raise ConfigError(f"root '{root}': {error}; check the address and the network") from None


def _s3(root: str, endpoint: str | None) -> tuple[pafs.FileSystem, str]:
    """As `pyarrow.fs.FileSystem.from_uri` makes it, and given up after SILENCE, which a URI cannot say."""
    parts = urlsplit(root)
    options = dict(parse_qsl(parts.query))
    if parts.username or options.keys() - {"region", "scheme", "endpoint_override"}:
        return pafs.FileSystem.from_uri(root)
    endpoint = options.get("endpoint_override") or endpoint
    system = pafs.S3FileSystem(
        region=options.get("region") or (None if endpoint else pafs.resolve_s3_region(parts.netloc)),
        scheme=options.get("scheme"),
        endpoint_override=endpoint,
        request_timeout=SILENCE,
        connect_timeout=SILENCE,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
        allow_delayed_open=True,  # one request for a small file
    )
    return system, f"{parts.netloc}{unquote(parts.path)}".rstrip("/")


class _Remote(io.RawIOBase):
    """A remote file whose requests are repeated when they fail."""

    def __init__(self, path: RemotePath):
        self._path, self._place = path, 0
        self._file = self._again(lambda: file_system(path.root)[0].open_input_file(path.key))

    def _again(self, request: Callable[[], Result]) -> Result:
        try:
            return again(str(self._path), request)
        except FileNotFoundError as error:
            raise StoreError(f"{self._path}: {error}") from error

    def _read(self, size: int) -> bytes:
        data = self._file.read_at(size, self._place)
        if len(data) < size:  # else a body that was cut would look like the file's end
            raise OSError(f"{len(data)} of {size} bytes came")
        return data

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
        data = self._again(lambda: self._read(size))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
