"""The group `url`: parts of a document's URL, and what block lists find in it.

The URL is `url` of the metadata, where the readers of web archives put it. Lists are the user's. The ways of
looking are those of RefinedWeb (Penedo et al. 2023, appendix G.1), FineWeb and Dolma 3 (filter 2): whole domains,
whole URLs, hard words (one is enough), soft words (two are), and substrings, letters and digits alone compared.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
from pydantic import BeforeValidator, Field

from curation.config import ConfigError, Strict
from curation.measure.group import Columns, Group
from curation.schema import metadata_of

PARTS = {
    "url_host": pa.string(),  # lower case, without port and user; null without a URL
    "url_domain": pa.string(),  # the registered domain: `registered_domain`
    "url_path": pa.string(),  # without query and fragment
    "url_path_parts": pa.uint64(),  # parts of the path that are not empty
    "url_characters": pa.uint64(),
}
HITS = {
    "url_blocked_domain": pa.uint64(),  # 1 where the host or a domain above it is listed
    "url_blocked_url": pa.uint64(),  # 1 where the URL is listed
    "url_hard_words": pa.uint64(),  # listed words among the words of the URL, each once
    "url_soft_words": pa.uint64(),
    "url_blocked_substrings": pa.uint64(),  # listed strings within the URL, each once
}  # each is null without a URL, and without a list to look into
NO_WORD = re.compile(r"[\W_]+")
# Labels under which a country's registry gives out names: "bbc.co.uk" is a registered domain, "co.uk" is none.
SECOND_LEVEL = frozenset(
    (
        "ac",
        "co",
        "com",
        "edu",
        "gob",
        "go",
        "gouv",
        "gov",
        "gv",
        "info",
        "mil",
        "ne",
        "net",
        "nom",
        "or",
        "org",
        "sch",
    )
)


def _paths(value: Any) -> Any:
    return (value,) if isinstance(value, str | Path) else value


Files = Annotated[tuple[Path, ...], BeforeValidator(_paths)]


class UrlLists(Strict):
    """Files of block lists by the way in which they are looked into: an entry a line, `#` begins a comment line.

    Paths are relative to the pipeline file. They are no part of a step's identity, but the files' hashes are.
    """

    domains: Files = Field(default=(), exclude=True)
    urls: Files = Field(default=(), exclude=True)
    hard_words: Files = Field(default=(), exclude=True)
    soft_words: Files = Field(default=(), exclude=True)
    substrings: Files = Field(default=(), exclude=True)

    def files(self, folder: Path) -> dict[str, list[Path]]:
        """The files of each list. Raises ConfigError for one that is not there."""
        found = {name: [folder / path for path in getattr(self, name)] for name in type(self).model_fields}
        for name, paths in found.items():
            for path in paths:
                if not path.is_file():
                    raise ConfigError(f"measure.url_lists.{name}: {path}: no such file")
        return {name: paths for name, paths in found.items() if paths}


class Url(NamedTuple):
    """The parts of a URL that are looked at; its text in lower case without scheme, "www." and fragment."""

    host: str
    path: str
    bare: str


@dataclass(frozen=True)
class Finders:
    """For each column of HITS how many entries of its list a URL holds; None where there is no such list."""

    by_column: dict[str, Callable[[Url], int] | None]


def parse(text: str) -> Url | None:
    """The parts of a URL; None for what has no host. Nothing is decoded: lists hold what addresses hold."""
    text = text.strip()
    scheme, separator, rest = text.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        rest = text.removeprefix("//")
    rest = rest.partition("#")[0]
    place = next((place for place, character in enumerate(rest) if character in "/?"), len(rest))
    host = rest[:place].rpartition("@")[2].lower()
    host = (host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]).rstrip(".")
    if not host or any(character.isspace() for character in host):
        return None
    path = rest[place:].partition("?")[0]
    return Url(host, path, host.removeprefix("www.") + rest[place:].lower())


def registered_domain(host: str) -> str:
    """The last two labels of a host, or three where the last but one is a registry's ("bbc.co.uk").

    An approximation without the Public Suffix List: "alice.github.io" gives "github.io". An address is itself.
    """
    labels = host.split(".")
    if host.startswith("[") or labels[-1].isdigit() or len(labels) < 3:
        return host
    of_country = len(labels[-1]) == 2 and labels[-2] in SECOND_LEVEL
    return ".".join(labels[-3:] if of_country else labels[-2:])


def group(files: dict[str, list[Path]]) -> Group:
    """The group `url` with these lists."""
    entries = {name: [line for path in paths for line in _lines(path)] for name, paths in files.items()}
    makers = {
        "url_blocked_domain": ("domains", _domains),
        "url_blocked_url": ("urls", _urls),
        "url_hard_words": ("hard_words", _words),
        "url_soft_words": ("soft_words", _words),
        "url_blocked_substrings": ("substrings", _substrings),
    }
    finders = {column: make(entries[name]) if name in entries else None for column, (name, make) in makers.items()}
    return Group("url", {**PARTS, **HITS}, partial(_measure, Finders(finders)))


def _lines(path: Path) -> Iterable[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error}") from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _domains(entries: list[str]) -> Callable[[Url], int]:
    listed = {url.host.removeprefix("www.") for url in map(parse, entries) if url}

    def find(url: Url) -> int:
        host = url.host
        while host not in listed:
            _, dot, host = host.partition(".")
            if not dot:
                return 0
        return 1

    return find


def _urls(entries: list[str]) -> Callable[[Url], int]:
    listed = {url.bare.rstrip("/") for url in map(parse, entries) if url}
    return lambda url: int(url.bare.rstrip("/") in listed)


def _words(entries: list[str]) -> Callable[[Url], int]:
    listed = {word for word in (NO_WORD.sub("", entry).lower() for entry in entries) if word}
    return lambda url: len(listed.intersection(NO_WORD.split(url.bare)))


def _substrings(entries: list[str]) -> Callable[[Url], int]:
    by_start: defaultdict[str, list[str]] = defaultdict(list)
    shortest = 3
    listed = {string for string in (NO_WORD.sub("", entry).lower() for entry in entries) if string}
    for string in sorted(listed):
        by_start[string[:shortest]].append(string)
    short = [string for string in listed if len(string) < shortest]

    def find(url: Url) -> int:
        text = NO_WORD.sub("", url.bare)
        found = {string for string in short if string in text}
        for place in range(len(text) - shortest + 1):
            for string in by_start.get(text[place : place + shortest], ()):
                if text.startswith(string, place):
                    found.add(string)
        return len(found)

    return find


def _measure(finders: Finders, documents: pa.Table, texts: pa.LargeStringArray) -> Columns:
    written = [_url_of(metadata) for metadata in documents["metadata"].to_pylist()]
    urls = [parse(text) if text else None for text in written]
    columns: dict[str, list[Any]] = {
        "url_host": [url.host if url else None for url in urls],
        "url_domain": [registered_domain(url.host) if url else None for url in urls],
        "url_path": [url.path if url else None for url in urls],
        "url_path_parts": [sum(map(bool, url.path.split("/"))) if url else None for url in urls],
        "url_characters": [len(text) if url else None for text, url in zip(written, urls, strict=True)],
    }
    for name, find in finders.by_column.items():
        columns[name] = [find(url) if url and find else None for url in urls]
    return {name: pa.array(columns[name], kind) for name, kind in {**PARTS, **HITS}.items()}


def _url_of(metadata: str | None) -> str | None:
    if not metadata or '"url"' not in metadata:
        return None
    url = metadata_of(metadata).get("url")
    return url if isinstance(url, str) else None


GROUP = group({})
