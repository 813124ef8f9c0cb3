"""Ingest: raw files to a pool of documents, nothing lost uncounted.

A raw record becomes one document, or a row in the quarantine that says where it lies and what is wrong with it,
or is skipped for a counted reason (an image in a web archive, a tied preference).

Text is kept as it is. It must be Unicode that UTF-8 can hold: a record with a lone surrogate goes to the
quarantine. NUL is a character like others; rules may object to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from curation.config import Bytes, ConfigError, Share, Strict
from curation.extractor import Extractor, HelperError
from curation.files import atomic, json_hash
from curation.read.inventory import find_files, inventory, units
from curation.read.record import SAMPLE, Document, Item, Limits, Problem, RawFile, Skipped
from curation.read.registry import READERS, Reader
from curation.read.shards import ShardWriter
from curation.read.web import WebOptions
from curation.schema import DOCUMENT, QUARANTINE, document_id, messages_bytes, shard_rows
from curation.steps import UNITS, Build, Context, StepOutput, step

VERSION = 2
# The raw files, sorted by hash, then by name: what the lineage of a pool begins with.
FILES = pa.schema([("file", pa.string()), ("bytes", pa.uint64()), ("sha256", pa.string())])


class Source(Strict):
    """One source of a pipeline: where its raw files are and how they are to be read."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    kind: Literal["text", "chat", "pairs"] = "text"
    type: str = ""  # free label for the tables of the account: "Web pages", "Code"
    reader: str  # see curation/read/registry.py
    root: str  # a folder, or "python:stdlib" / "python:site-packages"
    include: tuple[str, ...] = ()  # globs relative to the root; empty: what the reader reads by default
    exclude: tuple[str, ...] = ()
    options: dict[str, Any] = Field(default_factory=dict)  # of the reader
    profile: str = "plain"  # rule profile that decides over the measurements
    holdout: Share = Field(0.0, ge=0, le=1)  # share of documents kept out of every mix, for evaluation
    quality: bool = False  # whether the classifier `quality` is applied, where that names no sources itself
    topic: str | None = Field(None, pattern=r"^metadata\.[^.]+(\.[^.]+)*$")  # where documents say their own topic
    max_document_bytes: Bytes = 32 << 20  # a longer record is quarantined, without being held in memory
    max_file_bytes: Bytes = 64 << 30  # decompressed
    max_ratio: int = Field(1000, gt=0)  # decompressed to compressed bytes, tested above 64 MiB
    page_seconds: float = Field(10.0, gt=0)  # of processor time, for the extraction of one web page
    shard_bytes: Bytes = 256 << 20  # of text

    @model_validator(mode="after")
    def _check_reader(self) -> Source:
        reader = READERS.get(self.reader)
        if reader is None:
            raise ValueError(
                f"source '{self.name}': no reader '{self.reader}'; choose one of {', '.join(READERS)}"
            )
        if reader.kind != self.kind:
            raise ValueError(
                f"source '{self.name}': reader '{self.reader}' gives {reader.kind}, but kind is {self.kind}"
            )
        reader.options.model_validate(self.options)
        return self


def ingest(ctx: Context, source: Source) -> StepOutput:
    """Read a source into the step `ingest/<source>`: `shards/*.parquet` (DOCUMENT), `quarantine.parquet` and
    `files.parquet` (FILES: file relative to the root, bytes, sha256).

    Counts: records_read = documents_in = documents_out + quarantined + skipped; skipped_by_reason, bytes_in (raw
    files), bytes_text (UTF-8 of the documents), files. Rows lie in the order of the raw files' content hashes,
    then of the records in a file, so that the bytes depend on contents alone; a renamed file changes the origin
    of its rows, its name in `files.parquet`, and nothing else.
    Raises ConfigError if the root is no folder or an include pattern matches no file.
    """
    reader = READERS[source.reader]
    folder, paths = find_files(source.root, source.include, source.exclude, reader.include)
    cache = (
        ctx.workspace
        / "cache"
        / f"hashes-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}-{source.name}.json"
    )
    files = inventory(folder, paths, cache, ctx.executor)
    listing = json_hash([[file.relative, file.hash] for file in files])
    config = _literals(source, reader)
    return step(
        ctx,
        f"ingest/{source.name}",
        VERSION,
        config,
        {"files": listing},
        lambda build: _work(build, source, files),
    )


def _literals(source: Source, reader: Reader) -> dict[str, Any]:
    """What of a source decides the content of its pool. Versions of libraries do where they read for us."""
    keys = ("name", "kind", "reader", "max_document_bytes", "max_file_bytes", "max_ratio", "shard_bytes")
    literals = source.model_dump(mode="json", include=set(keys))
    options = reader.options.model_validate(source.options)
    literals["options"] = options.model_dump(mode="json")
    depends = set(reader.depends)
    if isinstance(options, WebOptions):
        literals["page_seconds"] = source.page_seconds
        depends.add(options.extractor)
    literals["depends"] = {name: _version(name) for name in sorted(depends)}
    return literals


def _version(name: str) -> str:
    """The version of Python, without its last part, or of a distribution. Raises ConfigError if it is missing."""
    if name == "python":
        return ".".join(platform.python_version_tuple()[:2])
    try:
        return version(name)
    except PackageNotFoundError:
        raise ConfigError(f"{name} is not installed; install it with: pip install 'mixwright[{name}]'") from None


def _work(build: Build, source: Source, files: list[RawFile]) -> None:
    tasks = {key: (source, group) for key, group in units(files).items()}
    results = build.map(ingest_unit, tasks, "processes")
    totals: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for result in results.values():
        reasons.update(result.pop("skipped_by_reason"))
        totals.update(result)
    _join_quarantine(build.folder, list(tasks))
    build.write_table("files.parquet", _file_table(files))
    written = sum(shard_rows(path) for path in (build.folder / "shards").glob("*.parquet"))
    if written != totals["documents_out"]:
        raise RuntimeError(
            f"{build.folder}: its shards hold {written} documents, {totals['documents_out']} were counted (a file "
            "of an interrupted run was removed or added?); remove the folder and run again"
        )
    names = ("documents_out", "quarantined", "skipped", "bytes_in", "bytes_text")
    build.counts = {name: totals[name] for name in names}
    read = totals["documents_out"] + totals["quarantined"] + totals["skipped"]
    build.counts |= {"records_read": read, "documents_in": read, "files": len(files)}
    build.counts["skipped_by_reason"] = dict(sorted(reasons.items()))
    if totals["quarantined"]:
        build.alarm(f"{totals['quarantined']} of {read} records are in quarantine, see quarantine.parquet")
    if not totals["documents_out"]:
        build.alarm(f"none of {read} records gave a document")


def _file_table(files: list[RawFile]) -> pa.Table:
    sizes = [file.path.stat().st_size for file in files]
    return pa.table([[file.relative for file in files], sizes, [file.hash for file in files]], schema=FILES)


def _join_quarantine(folder: Path, keys: list[str]) -> None:
    """One table of what the units could not read, in the order of the units' names."""
    with (
        atomic(folder / "quarantine.parquet") as temporary,
        pq.ParquetWriter(temporary, QUARANTINE, compression="zstd") as writer,
    ):
        for key in keys:
            for part in sorted((folder / UNITS).glob(f"{key}-*.parquet")):
                writer.write_table(pq.read_table(part, schema=QUARANTINE))


def ingest_unit(folder: Path, key: str, source: Source, files: list[RawFile]) -> dict[str, Any]:
    """Read the files of one unit into `shards/<key>-<number>.parquet`. Returns its counts."""
    options = READERS[source.reader].options.model_validate(source.options)
    web = isinstance(options, WebOptions)
    # An interrupted run can have left more shards than this one makes, if its code or libraries were others.
    for leftover in (folder / "shards", folder / UNITS):
        for path in sorted(leftover.glob(f"{key}-*.parquet")):
            path.unlink()
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    with (
        Extractor(source.page_seconds, options.extractor if web else "resiliparse") as extractor,
        ShardWriter(folder / "shards", key, DOCUMENT, source.shard_bytes) as shards,
        ShardWriter(folder / UNITS, key, QUARANTINE, source.shard_bytes) as quarantine,
    ):
        limits = Limits(source.max_document_bytes, source.max_file_bytes, source.max_ratio, extractor)
        for file in files:
            counts["bytes_in"] += file.path.stat().st_size
            for item in _items(source, file, limits):
                item, size = _checked(source.kind, item, limits.document_bytes)
                if isinstance(item, Document):
                    shards.add(_document_row(source, file, item), size)
                    counts["documents_out"] += 1
                    counts["bytes_text"] += size
                elif isinstance(item, Problem):
                    row = _problem_row(source, file, item)
                    quarantine.add(row, len(row["error"]) + len(row["sample"]))
                    counts["quarantined"] += 1
                else:
                    reasons[item.reason] += 1
                    counts["skipped"] += 1
    return {**counts, "skipped_by_reason": dict(sorted(reasons.items()))}


def _items(source: Source, file: RawFile, limits: Limits):
    """What the reader finds in a file; an empty file and a failure of the reader are items too."""
    reader = READERS[source.reader]
    if file.path.stat().st_size == 0:
        yield Skipped("empty file") if reader.empty else Problem("0", 0, "empty file")
        return
    found, last = 0, "0"
    items = reader.read(file, limits, reader.options.model_validate(source.options))
    while True:
        try:
            item = next(items, None)
        except HelperError:  # of this machine, not of the file
            raise
        except Exception as error:  # whatever a raw file can provoke must not stop the run
            yield Problem(last, -1, f"reader failed after record {last}: {type(error).__name__}: {error}")
            return
        if item is None:
            break
        found, last = found + 1, getattr(item, "place", last)
        yield item
    if not found:
        yield Problem("0", 0, "no records in the file")


def _checked(kind: str, item: Item, limit: int) -> tuple[Item, int]:
    """The item after the checks that all documents pass, and the bytes of its text."""
    if not isinstance(item, Document):
        return item, 0
    parts = [item.text] if kind == "text" else _contents(item)
    try:
        size = sum(len(part.encode()) for part in parts)
    except UnicodeEncodeError as error:
        found = f"U+{ord(error.object[error.start]):04X} at character {error.start}"
        sample = error.object[:SAMPLE].encode("utf-8", "backslashreplace")
        return Problem(item.place, item.offset, f"not Unicode text: {error.reason}: {found}", sample), 0
    if size > limit:
        error = f"a document of {size} bytes, over the {limit} of max_document_bytes"
        return Problem(item.place, item.offset, error, parts[0][:SAMPLE].encode()), 0
    if not any(part.strip() for part in parts):
        return Skipped("empty text"), 0
    return item, size


def _problem_row(source: Source, file: RawFile, item: Problem) -> dict[str, Any]:
    return {
        "source": source.name,
        "origin": _origin(file, item),
        "offset": item.offset,
        "error": item.error[:2000].encode("utf-8", "backslashreplace").decode(),  # it may quote the record
        "sample": _printable(item.sample),
    }


def _contents(item: Document) -> list[str]:
    return [turn["content"] for turns in (item.messages, item.chosen, item.rejected) for turn in turns or ()]


def _document_row(source: Source, file: RawFile, item: Document) -> dict[str, Any]:
    if source.kind == "text":
        content = item.text.encode()
    elif source.kind == "chat":
        content = messages_bytes(item.messages)
    else:
        content = messages_bytes(item.messages, item.chosen, item.rejected)
    return {
        "id": document_id(source.name, content),
        "source": source.name,
        "text": item.text,
        "messages": item.messages,
        "chosen": item.chosen,
        "rejected": item.rejected,
        "origin": _origin(file, item),
        "created": item.created,
        "metadata": _metadata(item.metadata),
    }


def _metadata(values: dict[str, Any]) -> str:
    """A JSON object with sorted keys."""
    try:
        return orjson.dumps(values, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # a lone surrogate or a number beyond 64 bits, which Python's writer takes
        return json.dumps(values, sort_keys=True, separators=(",", ":"))


def _origin(file: RawFile, item: Document | Problem) -> str:
    """file#record@offset, the offset left out where it is unknown."""
    return f"{file.relative}#{item.place}" + (f"@{item.offset}" if item.offset >= 0 else "")


def _printable(sample: bytes) -> str:
    text = sample[: 4 * SAMPLE].decode("utf-8", "backslashreplace")[:SAMPLE]
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)[:SAMPLE]
