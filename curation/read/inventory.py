"""The raw files of a source: found by globs, hashed once, divided into units of work by their content."""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path

from curation.config import ConfigError
from curation.executor import Executor
from curation.files import file_hash, read_json, write_json
from curation.read.dataset import Dataset, dataset_files
from curation.read.python_environment import OWN, ROOTS, environment_root
from curation.read.record import RawFile
from curation.read.stores import RemotePath, is_remote, remote_files

BIG = 8 << 20  # a file of this size is a unit of its own
UNIT = 2 << 20  # bytes of small files in a unit, as long as there are not yet MANY
MANY = 16
LARGE_UNIT = 256 << 20  # bytes of small files in a unit at most, on average
_HIDDEN = re.compile(r"(?:.*/)?(?:\.|__pycache__/)")
SETTLED = 2_000_000_000  # ns: a file changed this recently may change again within its time stamp
SETTLED_REMOTE = 60_000_000_000  # whose clock is another, and may count whole seconds


def find_files(
    root: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    default: tuple[str, ...] = (),
    dataset: Dataset | None = None,
) -> tuple[Path | str, list[Path | RemotePath]]:
    """The root folder, or its URI, and the regular files below it that the globs select, sorted by path.

    `default` holds where `include` is empty; a `dataset` says itself which files are its own. Hidden files and
    __pycache__ are left out, and so is this project itself from the Python environment. Raises ConfigError where
    the root is no folder, where a pattern of `include` matches no file, or where nothing is left.
    """
    folder, below = files_below(root, ("**/*",) if dataset else include or default)
    if dataset:
        names = sorted(filter(lambda name: not _HIDDEN.match(name), below))
        found = set(dataset_files(names, lambda name: _bytes(below[name]), _matches, dataset))
    else:
        found = set(below)
        for pattern in include:
            if not any(map(glob_pattern(pattern).match, below)):
                raise ConfigError(f"root '{root}': the pattern '{pattern}' matches no file in {folder}")
    out = [_HIDDEN, *map(glob_pattern, (*exclude, *OWN) if root in ROOTS else exclude)]
    kept = sorted(path for path in found if not any(pattern.match(path) for pattern in out))
    if not kept:
        raise ConfigError(f"root '{root}': no file in {folder} is left of {len(found)} after 'exclude'")
    return folder, [below[path] for path in kept]


def files_below(root: str, patterns: tuple[str, ...]) -> tuple[Path | str, dict[str, Path | RemotePath]]:
    """The root and the files below it that a pattern matches, by their relative paths."""
    for pattern in patterns:
        if pattern.startswith("/") or ".." in pattern.split("/"):
            raise ConfigError(
                f"root '{root}': the pattern '{pattern}' leaves the root; patterns are relative to it"
            )
    if is_remote(root):
        wanted = list(map(glob_pattern, patterns))
        files = remote_files(root)
        return root, {file.relative: file for file in files if any(one.match(file.relative) for one in wanted)}
    folder = environment_root(root) if root in ROOTS else Path(root).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"root '{root}': {folder} is no folder; check the path, or the variable it is made of")
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return folder, {path.relative_to(folder).as_posix(): path for path in found}


def _bytes(path: Path | RemotePath) -> bytes:
    with path.open("rb") as file:
        return file.read()


def _matches(pattern: str, path: str) -> bool:
    return bool(glob_pattern(pattern).match(path))


def glob_pattern(pattern: str) -> re.Pattern:
    """A glob as a regular expression over relative paths: * and ? within a name, ** over any number of folders."""
    expression = ""
    for part in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", pattern.removeprefix("./"), re.DOTALL):
        known = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        chosen = part.replace("[!", "[^", 1) if part.startswith("[") and len(part) > 1 else re.escape(part)
        expression += known.get(part) or chosen
    return re.compile(expression + r"\Z", re.DOTALL)


def inventory(
    folder: Path | str, files: list[Path | RemotePath], cache: Path, executor: Executor
) -> list[RawFile]:
    """Each file with its content hash, sorted by hash and relative path: the canonical order of a source.

    `cache` remembers hashes by path, size and time of change, so that a second look reads no file.
    """
    known = read_json(cache) if cache.is_file() else {}
    stamps = {str(path): [status.st_size, status.st_mtime_ns] for path in files for status in [path.stat()]}
    todo = [path for path in files if known.get(str(path), [None])[:2] != stamps[str(path)]]
    hashes = {path: known[path][2] for path, stamp in stamps.items() if known.get(path, [None])[:2] == stamp}
    size = sum(stamps[str(path)][0] for path in todo)
    for position, found in executor.map(file_hash, [(path,) for path in todo], "threads", size):
        hashes[str(todo[position])] = found
    if todo:
        settled = time.time_ns() - (SETTLED_REMOTE if isinstance(folder, str) else SETTLED)
        fresh = {path: [*stamps[path], hashes[path]] for path in stamps if stamps[path][1] < settled}
        if fresh != known:
            write_json(cache, fresh)
    raw = [RawFile(path, _relative(folder, path), hashes[str(path)]) for path in files]
    return sorted(raw, key=lambda file: (file.hash, file.relative))


def _relative(folder: Path | str, path: Path | RemotePath) -> str:
    """A path as valid UTF-8, whatever bytes its name is made of."""
    if isinstance(path, RemotePath):
        return path.relative
    return os.fsencode(path.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace")


def units(files: list[RawFile]) -> dict[str, list[RawFile]]:
    """Units of work by name, files in canonical order. Names and division depend on contents alone.

    Files of the same content share a unit, and so does each part of them. Small files go together by the leading
    bits of their hashes.
    """
    sizes = {file.hash: file.path.stat().st_size for file in files}
    total = sum(size for size in sizes.values() if size < BIG)
    wanted = max(total // LARGE_UNIT, min(MANY, total // UNIT), 1)
    bits = min(16, wanted.bit_length() - 1)
    groups: dict[str, list[RawFile]] = {}
    for file in files:
        if file.part:
            group = f"{file.hash}p{file.part.number:05d}"
        else:
            group = file.hash if sizes[file.hash] >= BIG else f"small-{int(file.hash[:4], 16) >> (16 - bits)}"
        groups.setdefault(group, []).append(file)
    named = {}
    for group in groups.values():
        hashes = sorted({file.hash for file in group})
        name = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
        part = group[0].part
        named[name[:16] + (f"p{part.number:05d}" if part else "")] = group
    return dict(sorted(named.items()))
