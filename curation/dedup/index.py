"""The index of incremental deduplication: a folder of immutable parts and versions, and a pointer to the newest.

    CURRENT                             {"version": NAME}, replaced as the last act of an extension
    versions/NAME/version.json          FORMAT, parent, batch, config, the parts in order, hashes of the state
    versions/NAME/state/PART.parquet    a row a document of the part: STATE
    versions/NAME/pairs.npy             all verified pairs, VERIFIED: higher document << 32 | lower one
    parts/PART/bands.npy                the band entries of the part's documents, sorted (curation.dedup.bands)
    parts/PART/texts.parquet            their texts, from which the shingle sets are made again

A *document* of the index is a distinct text (128-bit hash); its number is its place in the parts, in order. STATE
names the most preferred record of that text. Documents that were dropped stay in the index: a document added later
may supersede the one that they were dropped for.

Size: 12 bytes a band and document, the text as zstd-compressed Parquet, about 100 bytes of state, 16 bytes a
verified pair. An extension reads the bands and the state of all documents, and the texts of those it compares.

Whenever a writer is killed, CURRENT names a complete version. The version before it stays; what neither refers to
is removed by the next extension. One writer at a time holds the lock; readers need none.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation.config import ConfigError
from curation.files import atomic, file_hash, json_hash, read_json, read_parquet, remove, write_json, write_parquet

FORMAT = 1
CURRENT, VERSION_FILE, PAIRS = "CURRENT", "version.json", "pairs.npy"
BANDS, TEXTS = "bands.npy", "texts.parquet"

STATE = pa.schema(
    [
        ("source", pa.string()),
        ("high", pa.uint64()),  # the halves of the id
        ("low", pa.uint64()),
        ("origin", pa.string()),
        ("bytes", pa.uint64()),
        ("created", pa.int64()),  # microseconds, see curation.dedup.keep
        ("score", pa.float64()),  # NaN where the keep policy knows none
        ("value_high", pa.uint64()),  # the halves of the text's hash
        ("value_low", pa.uint64()),
        ("twin", pa.int64()),  # number of the kept document that this one is dropped for; -1: it is kept
        ("similarity", pa.float64()),  # to the twin, NaN where it is kept
    ]
)


@dataclass(frozen=True)
class Version:
    """A complete version of an index."""

    root: Path
    name: str
    record: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.root / "versions" / self.name

    @property
    def parts(self) -> dict[str, int]:
        """The parts in order, with their documents."""
        return {part["name"]: part["documents"] for part in self.record["parts"]}

    @property
    def documents(self) -> int:
        return sum(self.parts.values())

    def part(self, name: str) -> Path:
        return self.root / "parts" / name

    def state(self, part: str) -> Path:
        return self.folder / "state" / f"{part}.parquet"

    def columns(self) -> dict[str, np.ndarray]:
        """The columns of STATE but source and origin, of all documents in order."""
        names = [name for name in STATE.names if name not in ("source", "origin")]
        tables = [read_parquet(self.state(part), columns=names) for part in self.parts]
        table = pa.concat_tables(tables) if tables else STATE.empty_table()
        return {name: table[name].to_numpy() for name in names}

    def pairs(self) -> np.ndarray:
        return np.load(self.folder / PAIRS)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the index for writing; the operating system frees it however the holder ends."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: another run is extending {root}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def newest(root: Path) -> Version | None:
    """The version that CURRENT names; None for an index that is not there yet. Raises ConfigError if broken."""
    pointer = root / CURRENT
    if not pointer.exists():
        return None
    try:
        return read_version(root, read_json(pointer)["version"])
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{pointer}: expected a JSON object with 'version'; restore it or start anew") from None


def read_version(root: Path, name: str) -> Version:
    """A version by its name. Raises ConfigError if a file of it is missing or of another size."""
    path = root / "versions" / name / VERSION_FILE
    try:
        record = read_json(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: missing; restore the index from a copy, or start anew") from None
    if record.get("format") != FORMAT:
        raise ConfigError(f"{path}: format {record.get('format')}, expected {FORMAT}; build the index anew")
    for relative, entry in record["files"].items():
        found = (root / relative).stat().st_size if (root / relative).is_file() else "no file"
        if found != entry["bytes"]:
            raise ConfigError(
                f"{root / relative}: expected {entry['bytes']} bytes, found {found}; restore the index from a "
                "copy, or start anew"
            )
    return Version(root, name, record)


def verify(version: Version) -> list[str]:
    """The files of a version whose bytes are not those it recorded, each with what was found."""
    return [
        f"{version.root / relative}: expected {entry['hash']}, found {found}"
        for relative, entry in version.record["files"].items()
        if (found := file_hash(version.root / relative)) != entry["hash"]
    ]


def require_sound(version: Version) -> None:
    """Raise ConfigError if a file of the version is not as it was written: what it held would be decided upon."""
    if wrong := verify(version):
        raise ConfigError("\n".join([*wrong, "the index is damaged; restore it from a copy, or start anew"]))


def require_config(version: Version, config: dict[str, Any]) -> None:
    """Raise ConfigError unless the index was made with these settings: other ones would decide otherwise."""
    for key, expected in version.record["config"].items():
        if config[key] != expected:
            raise ConfigError(
                f"{version.root}: the index was made with {key} = {expected}, found {config[key]}; give the same "
                "setting, or another index folder"
            )


def version_name(base: Version | None, batch: str) -> str:
    """The name of the version that a batch makes of a base: its place in the row, and a hash of both."""
    place = 1 + (int(base.name.split("-")[0]) if base else 0)
    return f"{place:06d}-{json_hash([base.name if base else None, batch])[:16]}"


def commit(
    root: Path,
    base: Version | None,
    batch: str,
    config: dict[str, Any],
    new_parts: dict[str, tuple[int, list[Path]]],
    state: Iterator[tuple[str, pa.Table]],
    pairs: np.ndarray,
) -> Version:
    """Write the version that a batch makes of `base` and point CURRENT to it. Call under `locked`.

    `new_parts`: how many documents each has, and its files BANDS and TEXTS, which are copied. `state`: of every
    part, old ones first, its name and STATE table.
    """
    name = version_name(base, batch)
    head = newest(root)
    if head and head.name == name:
        return head  # the run before was killed between this commit and its own record
    old = base.record["parts"] if base else []
    parts = [*old, *({"name": part, "documents": documents} for part, (documents, _) in new_parts.items())]
    version = Version(root, name, {"parts": parts})
    for part, (_, files) in new_parts.items():
        _copy_part(files, version.part(part))
    remove(version.folder)  # of a run that was killed before it set CURRENT
    with atomic(version.folder) as temporary:
        for part, table in state:
            write_parquet(temporary / "state" / f"{part}.parquet", table.cast(STATE))
        np.save(temporary / PAIRS, pairs, allow_pickle=False)
        files = {f"versions/{name}/{path.relative_to(temporary)}": path for path in temporary.rglob("*.*")}
        for part in version.parts:
            files |= {f"parts/{part}/{file}": version.part(part) / file for file in (BANDS, TEXTS)}
        record = {
            "format": FORMAT,
            "parent": base.name if base else None,
            "batch": batch,
            "config": config,
            "parts": parts,
            "files": {key: _entry(base, key, path) for key, path in sorted(files.items())},
        }
        write_json(temporary / VERSION_FILE, record)
    write_json(root / CURRENT, {"version": name})
    _tidy(root, {name, base.name if base else name}, {part["name"] for part in parts})
    return Version(root, name, record)


def _copy_part(files: list[Path], target: Path) -> None:
    """Copy a new part's files into the index, complete or absent."""
    if target.exists():
        return
    with atomic(target) as temporary:
        temporary.mkdir()
        for source, name in zip(files, (BANDS, TEXTS), strict=True):
            shutil.copyfile(source, temporary / name)


def _entry(base: Version | None, key: str, path: Path) -> dict[str, Any]:
    """Size and hash of a file; of an old part's as they stand in the base."""
    known = base.record["files"].get(key) if base else None
    return known or {"bytes": path.stat().st_size, "hash": file_hash(path)}


def _tidy(root: Path, versions: set[str], parts: set[str]) -> None:
    """Remove what neither the newest version nor its parent refers to."""
    for folder, keep in (("versions", versions), ("parts", parts)):
        for path in (root / folder).iterdir():
            if path.name not in keep:
                remove(path)
