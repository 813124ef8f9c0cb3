"""Workspaces and results on a remote store: worked on in a mirror on this machine, published when complete.

All that is computed, mapped into memory, locked or resumed lies in the mirror, a folder of the cache that is named
by the URL. The store holds the truth: a step is there if its record is, which is written last (`publish`) and
removed first (`withdraw`). Every file is compared with its record's size and hash when it is sent and when it is
fetched, and it is fetched when it is first asked for. The mirror may be removed whenever no run is at work.

Not locked: two machines that build the same step at once. Both send the same bytes, as long as the step gives
the same on both; where it does not (training on other hardware), a record that is there already is taken over, and
files of two that were sent in the same seconds are seen by their hashes.

Credentials come from the environment, as for inputs; a URL that holds one is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from curation.config import ConfigError
from curation.files import json_hash, read_json, remove, write_bytes, write_json
from curation.objects import CorruptError, Found, Objects
from curation.read.stores import S3_ENDPOINTS, StoreError, is_remote

RECORD = "step.json"
PENDING = "pending.json"  # names the files of a folder while its record is not there: for gc, and to go on
ADDRESS = "mirror.json"
AT_ONCE = 8  # files under way
ABANDONED = 24 * 3600  # seconds after which a folder without its record is taken for that of a run long dead
_SECRET = re.compile(r"key|secret|token|sig|pass|credential", re.IGNORECASE)

_workspaces: dict[Path, Store] = {}
_results: dict[Path, Store] = {}


def open_workspace(place: str | Path) -> Path:
    """The folder to work in: of a URL its mirror, registered with its store; any other place as it is.

    Raises ConfigError for a URL that is wrong, StoreError for a store that does not answer.
    """
    return _open(str(place), _workspaces)


def open_results(place: str | Path) -> Path:
    """Likewise for a folder of results, which `publish_results` sends; steps below it stay here."""
    return _open(str(place), _results)


def of(path: Path) -> Store | None:
    """The store of the workspace that a path belongs to; None for a folder of this machine."""
    for mirror, store in _workspaces.items():
        if path.is_relative_to(mirror) and ".." not in path.parts:
            return store
    return None


def of_results(folder: Path) -> Store | None:
    return _results.get(folder)


def shown(path: Path) -> str:
    """A path as people know it: its URL, where it is a mirror's."""
    path = Path(path)
    store = of(path) or _results.get(path)
    return str(path) if store is None else store.url(path)


def _open(place: str, registry: dict[Path, Store]) -> Path:
    marker = None
    if not is_remote(place):
        marker = Path(place).resolve() / ADDRESS
        if registry is _results or not marker.is_file():
            return Path(place)
        if marker.parent in registry:
            return marker.parent
        place = read_json(marker)["url"]
    root = place.rstrip("/")
    _require_no_secret(root)
    if not is_remote(root):
        raise ConfigError(f"{place}: names no bucket or folder; give one, as in s3://bucket/prefix")
    mirror = _mirror(root, "workspaces" if registry is _workspaces else "results")
    if marker is not None and mirror != marker.parent:  # of other settings, or of another's machine
        raise ConfigError(
            f"{marker.parent}: mirrors {root}, but not for this MIXWRIGHT_CACHE and this endpoint: "
            f"give the URL, or remove {ADDRESS} to have a folder of its own"
        )
    if mirror not in registry:
        store = Store(root, mirror)
        store.require_there()
        mirror.mkdir(parents=True, exist_ok=True)
        if registry is _workspaces:
            write_json(mirror / ADDRESS, {"url": root})
        registry[mirror] = store
    return mirror


def _require_no_secret(root: str) -> None:
    parts = urlsplit(root)
    options = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    user, at, _ = parts.netloc.rpartition("@")
    in_place = ":" in parts.netloc or at or "@" in parts.path if parts.scheme == "s3" else ":" in user
    if in_place or any(map(_SECRET.search, options)):
        raise ConfigError(
            f"this {parts.scheme}:// URL holds a key or a password: leave it out, and set it in the environment "
            "as the store's own tools take it (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ...)"
        )


def _mirror(root: str, kind: str) -> Path:
    """Named by the URL, and by the server that the environment names: another one has other objects."""
    endpoints = [os.environ.get(name) for name in S3_ENDPOINTS]
    name = re.sub(r"[^A-Za-z0-9-]+", "-", root.partition("://")[2].partition("?")[0])[-40:].strip("-")
    return cache_folder().resolve() / kind / f"{name}-{json_hash([root, *endpoints])[:16]}"


def cache_folder() -> Path:
    """MIXWRIGHT_CACHE, or mixwright's part of the user's cache folder."""
    if given := os.environ.get("MIXWRIGHT_CACHE"):
        return Path(given).expanduser()
    mac = Path.home() / "Library" / "Caches" if sys.platform == "darwin" else Path.home() / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or mac) / "mixwright"


class Store(Objects):
    """A workspace or a folder of results on a store: steps are published and fetched, runs pushed and pulled."""

    def __init__(self, root: str, mirror: Path):
        super().__init__(root, mirror)
        self._records: dict[Path, dict[str, Any]] = {}
        self._fetching = threading.RLock()

    # --- steps

    def record(self, folder: Path) -> dict[str, Any] | None:
        """The record of a published step; None if it is not there, or was found to be damaged here."""
        record = self._record(folder)
        with contextlib.suppress(FileNotFoundError):
            if record is not None and _damaged(folder).read_text() == _made(record):
                return None
        return record

    def _record(self, folder: Path) -> dict[str, Any] | None:
        """Likewise, damaged or not; None too for what is not the record of this very folder: another's file."""
        if folder not in self._records:
            record = _parse(self.read(folder / RECORD)) or {}
            name, fingerprint = str(record.get("name")), str(record.get("fingerprint"))
            if folder != self.mirror / "steps" / name / fingerprint[:16]:
                return None
            _require_below(self.url(folder), [*record["files"], *record["volatile"]])
            self._records[folder] = record
        return self._records[folder]

    def folders(self, below: Path) -> list[Path]:
        """The folders directly in one."""
        return [one.path for one in self.below(below, recursive=False)]

    def publish(self, folder: Path, record: dict[str, Any]) -> None:
        """Send a step that is complete here: its files, then its record."""
        self._records.pop(folder, None)
        files = {folder / name: entry["hash"] for name, entry in record["files"].items()}
        files |= {folder / name: None for name in record["volatile"] if (folder / name).is_file()}
        begun = self._begin(folder, files)
        if _damaged(folder).exists():
            self.delete(folder / RECORD)
        self._send_all(folder, files, begun)
        self.send(folder / RECORD)
        self.delete(folder / PENDING)
        remove(_damaged(folder))
        self._records[folder] = record

    def _begin(self, folder: Path, files: Iterable[Path]) -> bool:
        """Say what is pending, and whether that was said before. Its age tells `abandoned`: it is said anew."""
        before = _parse(self.read(folder / PENDING))
        names = {*(before or {}).get("files", []), *(path.relative_to(folder).as_posix() for path in files)}
        source = folder.parent / f".{folder.name}.{PENDING}"  # not in the folder, whose files are its content
        write_json(source, {"files": sorted(names)})
        self.send(folder / PENDING, source=source)
        remove(source)
        return before is not None

    def _send_all(self, folder: Path, files: dict[Path, str | None], begun: bool) -> None:
        there = {one.path: one.size for one in self.below(folder)} if begun else {}

        def send(path: Path) -> None:
            if there.get(path) == path.stat().st_size and self.is_sent(path):
                return
            self.send(path, files[path])

        _each(send, list(files))

    def materialise(self, folder: Path, record: dict[str, Any]) -> None:
        """Fetch what is not here of a published step. One that is not as its record says counts as not there
        from then on, so that the next run makes it again. Raises CorruptError, StoreError."""
        with self._fetching:
            if folder in self._whole:
                return
            remove(folder / RECORD)  # of other files: theirs comes last
            try:
                _each(lambda name: self._fetch_of(folder, record, name), record["files"])
            except CorruptError as error:
                raise self._given_up(folder, record, error) from error
            for name in record["volatile"]:
                if (data := self.read(folder / name)) is not None:
                    write_bytes(folder / name, data)
            write_json(folder / RECORD, record)
            self._whole.add(folder)

    def file(self, folder: Path, record: dict[str, Any], name: str) -> Path:
        """One file of a published step, fetched. Raises CorruptError, StoreError; KeyError for no file of it."""
        try:
            return self._fetch_of(folder, record, name)
        except CorruptError as error:
            raise self._given_up(folder, record, error) from error

    def _fetch_of(self, folder: Path, record: dict[str, Any], name: str) -> Path:
        entry = record["files"][name]
        return self.fetch(folder / name, entry["bytes"], entry["hash"])

    def _given_up(self, folder: Path, record: dict[str, Any], error: CorruptError) -> CorruptError:
        write_bytes(_damaged(folder), _made(record).encode())
        self.forget(folder)
        return CorruptError(f"{error}\nThe step counts as not there now: a run makes it again and sends it")

    def is_here(self, folder: Path) -> bool:
        """Whether all of a published step was fetched by this process."""
        return folder in self._whole

    def forget(self, folder: Path) -> None:
        """Look at the store and at the files again when the step is next asked for."""
        self._records.pop(folder, None)
        for path in list(self._whole):  # other threads add to it
            if path.is_relative_to(folder):
                self._whole.discard(path)

    def withdraw(self, folder: Path) -> None:
        """Remove a step: its record first, then the files that it names, and no other."""
        self.forget(folder)
        record = self._record(folder)
        pending = _parse(self.read(folder / PENDING))
        if record is None and pending is None:
            return
        told = [*(record or {}).get("files", []), *(record or {}).get("volatile", [])]
        names = sorted({*told, *(pending or {}).get("files", [])})
        _require_below(self.url(folder), names)
        if pending is None:
            self._begin(folder, [folder / name for name in names])
        self.delete(folder / RECORD)
        there = {one.path for one in self.below(folder)}
        _each(self.delete, [folder / name for name in names if folder / name in there])
        self.delete(folder / PENDING)
        self.forget(folder)

    def abandoned(self) -> list[Path]:
        """The folders of steps whose files were sent, and then no record, a day ago or longer."""
        found = self.below(self.mirror / "steps")
        complete = {one.path.parent for one in found if one.path.name == RECORD}
        late = time.time_ns() - ABANDONED * 1_000_000_000
        pending = [one.path.parent for one in found if one.path.name == PENDING and 0 < one.changed <= late]
        return [folder for folder in pending if folder not in complete]

    def steps(self) -> list[Path]:
        """The folders of all published steps, damaged ones too."""
        found = [one.path.parent for one in self.below(self.mirror / "steps") if one.path.name == RECORD]
        return [folder for folder in found if self._record(folder) is not None]

    # --- runs and results

    def pull(self, found: Found) -> Path:
        """An object that may be written anew, fetched where it is not as it was when it was last fetched."""
        with contextlib.suppress(FileNotFoundError):
            status = found.path.stat()
            if found.changed and (status.st_size, status.st_mtime_ns) == (found.size, found.changed):
                return found.path
        data = self.read(found.path)
        if data is not None:
            write_bytes(found.path, data)
            os.utime(found.path, ns=(found.changed, found.changed))
        return found.path

    def push_folder(self, folder: Path, last: str) -> None:
        """Send the files of a run's folder, `last` after the others."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / last]
        _each(self.send, files)
        self.send(folder / last)

    def require_empty(self, last: str) -> None:
        """Raises ValueError where results or files of others are; some of ours that were never whole may be."""
        there = {one.path for one in self.below(self.mirror)}
        if self.mirror / last in there:
            raise ValueError(f"{self.root}: is there already; name a new place")
        if there and self.mirror / PENDING not in there:
            raise ValueError(f"{self.root}: holds other files and no results; name a new or empty place")

    def require_ours(self, last: str, identity: dict[str, Any]) -> None:
        """Likewise, but for results whose record `last` holds `identity`."""
        record = self.read(self.mirror / last)
        if record is None or not identity.items() <= json.loads(record).items():
            self.require_empty(last)

    def publish_results(self, folder: Path, last: str, leave_out: str = "") -> None:
        """Send a folder of results: its files, then `last`, which says that they are whole.

        What is there as it is here is not sent again. `leave_out` is a folder that stays here.
        """
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / last]
        paths = [path for path in paths if path.relative_to(folder).parts[0] != leave_out]
        if self.is_sent(folder / last) and all(map(self.is_sent, paths)):
            return
        begun = self._begin(folder, paths)
        self.delete(folder / last)
        self._send_all(folder, dict.fromkeys(paths), begun)
        self.send(folder / last)
        self.delete(folder / PENDING)


def _each(work: Callable[[Any], Any], items: Iterable[Any]) -> None:
    """Several at once; the first failure, after those under way."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        calls = [pool.submit(work, item) for item in items]
        try:
            for call in calls:
                call.result()
        finally:
            for call in calls:
                call.cancel()


def _parse(data: bytes | None) -> dict[str, Any] | None:
    """A record as it was written; None for none, or for what is none."""
    with contextlib.suppress(ValueError):
        value = None if data is None else json.loads(data)
        if isinstance(value, dict) and "files" in value:
            return {"volatile": []} | value
    return None


def _require_below(url: str, names: Iterable[str]) -> None:
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise StoreError(f"{url}: its record names a file outside of its folder, {name!r}: it is not ours")


def _damaged(folder: Path) -> Path:
    """Says which step of the store was found damaged here: see `_made`."""
    return folder.parent / f".{folder.name}.damaged"


def _made(record: dict[str, Any]) -> str:
    """Tells a record from that of another machine, which has made the step again: that one may be sound."""
    return json.dumps(record, sort_keys=True)
