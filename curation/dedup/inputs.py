"""What a person names on the command line: files, folders and globs of JSON lines and Parquet, by source."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path

from curation.config import ConfigError
from curation.read.streams import plain_name

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")  # what is taken from a folder, compressed or not
_NAMED = re.compile(r"([A-Za-z0-9][\w.-]*)=(.+)", re.ASCII)


def find_inputs(inputs: Iterable[str]) -> dict[str, list[Path]]:
    """The files of each source, sorted; a file that is named twice counts once.

    An input is a file, a folder (its JSON lines and Parquet, however deep) or a glob, and may begin with the name
    of its source: "web=crawl/*.jsonl.gz". Without that the source is called as the folder the files lie in.
    Raises ConfigError where an input matches no file.
    """
    found: dict[str, set[Path]] = {}
    seen: set[Path] = set()
    for given in inputs:
        name, pattern = (match[1], match[2]) if (match := _NAMED.fullmatch(given)) else ("", given)
        for path in _files(pattern, given):
            if (resolved := path.resolve()) not in seen:
                seen.add(resolved)
                folder = Path(pattern) if Path(pattern).is_dir() else path.parent
                found.setdefault(name or _source_name(folder), set()).add(path)
    return {name: sorted(paths) for name, paths in sorted(found.items())}


def _files(pattern: str, given: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        files = [child for child in path.rglob("*") if child.is_file() and _is_wanted(child.relative_to(path))]
        if not files:
            raise ConfigError(f"{given}: no file in it ends in {', '.join(SUFFIXES)} (or that with .gz, .zst ...)")
        return sorted(files)
    if path.is_file():
        return [path]
    files = [Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file()]
    if not files:
        raise ConfigError(f"{given}: no such file or folder, and as a glob it matches no file")
    return sorted(files)


def _is_wanted(path: Path) -> bool:
    return plain_name(path.name).endswith(SUFFIXES) and not any(part.startswith(".") for part in path.parts)


def _source_name(folder: Path) -> str:
    """A folder's name in the letters that a source may have."""
    return re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("-._") or "input"
