"""Objects of a remote store that a folder of this machine mirrors, each compared with its size and checksum.

What fails is repeated (`curation.read.stores.again`); what fails for good is a StoreError.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import Path
from typing import NamedTuple

from pyarrow.fs import FileSelector, FileType

from curation.files import atomic, file_hash
from curation.read import stores
from curation.read.stores import StoreError, again, file_system

BLOCK = 10 << 20  # bytes of a write: the part size of pyarrow's uploads, so that S3's checksum can be foretold


class CorruptError(StoreError):
    """An object of the store has not the bytes of its record."""


class Found(NamedTuple):
    """An object below a folder of the store."""

    path: Path  # where it is in the mirror
    size: int
    changed: int  # ns since 1970; 0 where the store does not say


class Objects:
    """The objects below a URL, each known by the path of its mirror: `send` and `fetch` copy between the two."""

    def __init__(self, root: str, mirror: Path):
        self.root, self.mirror = root, mirror
        self._system, self._base = file_system(root)
        self._whole: set[Path] = set()  # files and folders known to be here as their records say

    def url(self, path: Path) -> str:
        address, _, options = self.root.partition("?")
        relative = path.relative_to(self.mirror).as_posix()
        return (address if relative == "." else f"{address}/{relative}") + (f"?{options}" if options else "")

    def require_there(self) -> None:
        """Raises StoreError where the store does not answer or the bucket is not there."""
        with contextlib.suppress(FileNotFoundError):  # a prefix that nothing was written to
            again(self.root, lambda: self._system.get_file_info(_selector(self._base, False, must_exist=True)))
            return
        if self.root.partition("://")[0] in stores.NATIVE:
            bucket = self._base.partition("/")[0]
            found = again(self.root, lambda: self._system.get_file_info(bucket))
            if found.type == FileType.NotFound:
                raise StoreError(f"{self.root}: the bucket '{bucket}' is not there; make it, or check its name")

    def below(self, folder: Path, recursive: bool = True) -> list[Found]:
        """The objects below a folder, sorted; without `recursive` the names directly in it, folders too."""
        key = self._key(folder)
        found = again(self.url(folder), lambda: self._system.get_file_info(_selector(key, recursive)))
        files = [
            Found(folder / info.path[len(key) :].strip("/"), info.size or 0, info.mtime_ns or 0)
            for info in found
            if info.is_file or not recursive
        ]
        return sorted(one for one in files if ".." not in one.path.parts)

    def read(self, path: Path) -> bytes | None:
        """An object's bytes; None if it is not there."""

        def request() -> bytes:
            with self._system.open_input_file(self._key(path)) as file:
                data = file.read()
                if len(data) != file.size():
                    raise OSError(f"{len(data)} of {file.size()} bytes came")
                return data

        with contextlib.suppress(FileNotFoundError):
            return again(self.url(path), request)
        return None

    def fetch(self, path: Path, size: int, digest: str) -> Path:
        """The file of this size and SHA-256, fetched unless it is here. Raises CorruptError."""
        if path not in self._whole:
            if not (path.is_file() and path.stat().st_size == size and file_hash(path) == digest):
                self._fetch(path, size, digest)
            self._whole.add(path)
        return path

    def _fetch(self, path: Path, size: int, digest: str) -> None:
        for attempt in range(1, stores.ATTEMPTS + 1):  # what was cut or changed on its way is read again
            try:
                with atomic(path) as temporary:
                    again(self.url(path), lambda temporary=temporary: self._copy(path, temporary, size, digest))
                break
            except FileNotFoundError:
                raise CorruptError(f"{self.url(path)}: is not there") from None
            except CorruptError:
                if attempt == stores.ATTEMPTS:
                    raise
                time.sleep(stores.PAUSE * 2 ** (attempt - 1))

    def _copy(self, path: Path, temporary: Path, size: int, digest: str) -> None:
        found = hashlib.sha256()
        with self._system.open_input_file(self._key(path)) as there, open(temporary, "wb") as here:
            if there.size() != size:
                raise CorruptError(f"{self.url(path)}: expected {size} bytes, there are {there.size()}")
            while block := there.read(BLOCK):
                found.update(block)
                here.write(block)
        if found.hexdigest() != digest:
            raise CorruptError(f"{self.url(path)}: expected {digest}, found {found.hexdigest()}")

    def send(self, path: Path, digest: str | None = None, source: Path | None = None) -> None:
        """Write a file to the store and compare what is there with it: its size, and S3's checksum.

        `source`: the file, where it does not lie at the path. Raises CorruptError, with nothing there, for a file
        that has not the SHA-256 `digest`.
        """
        source = source or path

        def request() -> None:
            sums, found, size = _sums(source)
            if digest is not None and found != digest:
                raise CorruptError(f"{path}: expected {digest}, found {found}; it is not sent")
            with (
                open(source, "rb") as file,
                self._system.open_output_stream(self._key(path), compression=None) as stream,
            ):
                while block := file.read(BLOCK):
                    stream.write(block)
            try:
                self._compare(path, size, sums, found)
            except FileNotFoundError as error:
                raise OSError("it was sent and is not there") from error

        again(self.url(path), request)

    def _compare(self, path: Path, size: int, sums: set[str], digest: str) -> None:
        with self._system.open_input_file(self._key(path)) as there:
            tag = dict(there.metadata() or {}).get("ETag", b"")
            if there.size() != size:
                raise OSError(f"{there.size()} of {size} bytes are there")
            if tag and tag.decode().strip('"') not in sums:  # encrypted, or sent in other parts: read it back
                found = hashlib.sha256()
                while block := there.read(BLOCK):
                    found.update(block)
                if found.hexdigest() != digest:
                    raise OSError(f"expected {digest}, {found.hexdigest()} is there")

    def is_sent(self, path: Path) -> bool:
        """Whether a file is there as it is here."""
        sums, digest, size = _sums(path)
        try:
            again(self.url(path), lambda: self._compare(path, size, sums, digest))
        except (StoreError, FileNotFoundError):
            return False
        return True

    def delete(self, path: Path) -> None:
        """Remove an object if it is there. S3 keeps an empty object for its folder, as pyarrow wants it."""
        with contextlib.suppress(FileNotFoundError):
            again(self.url(path), lambda: self._system.delete_file(self._key(path)))

    def _key(self, path: Path) -> str:
        relative = path.relative_to(self.mirror).as_posix()
        return self._base if relative == "." else f"{self._base}/{relative}"


def _selector(key: str, recursive: bool, must_exist: bool = False) -> FileSelector:
    return FileSelector(key, allow_not_found=not must_exist, recursive=recursive)


def _sums(path: Path) -> tuple[set[str], str, int]:
    """What S3 may call a file's checksum (of one part, or of parts of BLOCK bytes), its SHA-256, its size."""
    whole, digest, parts, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), b"", 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            whole.update(block)
            digest.update(block)
            parts += hashlib.md5(block, usedforsecurity=False).digest()
            size += len(block)
    parts = parts or whole.digest()
    of_parts = hashlib.md5(parts, usedforsecurity=False).hexdigest()
    return {whole.hexdigest(), f"{of_parts}-{len(parts) // 16}"}, digest.hexdigest(), size
