"""Ingest: raw files to a pool of documents, nothing lost uncounted.

A raw record becomes one document, or a row in the quarantine that says where it lies and what is wrong with it,
or is skipped for a counted reason (an image in a web archive, a tied preference).

Text is kept as it is. It must be Unicode that UTF-8 can hold: a record with a lone surrogate goes to the
quarantine. NUL is a character like others; rules may object to it.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from curation.config import Bytes, ConfigError, Share, Strict
from curation.extractor import Extractor, HelperError
from curation.files import atomic, json_hash
from curation.read.admit import admitted
from curation.read.dataset import Dataset
from curation.read.inventory import files_below, find_files, inventory, units
from curation.read.licences import FILES as LICENCE_FILES
from curation.read.licences import with_licences
from curation.read.record import Limits, Problem, RawFile, Skipped
from curation.read.registry import READERS, Reader
from curation.read.shards import ShardWriter
from curation.read.stores import StoreError
from curation.read.web import WebOptions
from curation.schema import DOCUMENT, QUARANTINE, shard_rows
from curation.steps import UNITS, Build, Context, StepOutput, step

VERSION = 4
LFS = b"version https://git-lfs.github.com/spec/"
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
    dataset: Dataset | None = None  # the root is a Hugging Face dataset folder, instead of `include`
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
        if self.dataset and self.include:
            raise ValueError(f"source '{self.name}': 'dataset' says which files are read; take 'include' out")
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
    folder, paths = find_files(source.root, source.include, source.exclude, reader.include, source.dataset)
    cache = (
        ctx.workspace
        / "cache"
        / f"hashes-{hashlib.sha256(os.fsencode(str(folder))).hexdigest()[:16]}-{source.name}.json"
    )
    files = inventory(folder, paths, cache, ctx.executor)
    if reader.licences:
        files = with_licences(files, files_below(source.root, LICENCE_FILES)[1])
    listing = json_hash([[file.relative, file.hash, *filter(None, [file.licence])] for file in files])
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
    tasks = {key: (source, group) for key, group in units(_divided(build, source, files)).items()}
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
    build.counts = {name: totals[name] for name in ("documents_out", "quarantined", "skipped", "bytes_text")}
    build.counts["bytes_in"] = sum(file.path.stat().st_size for file in files)
    read = totals["documents_out"] + totals["quarantined"] + totals["skipped"]
    build.counts |= {"records_read": read, "documents_in": read, "files": len(files)}
    build.counts["skipped_by_reason"] = dict(sorted(reasons.items()))
    if totals["quarantined"]:
        build.alarm(f"{totals['quarantined']} of {read} records are in quarantine, see quarantine.parquet")
    if not totals["documents_out"]:
        build.alarm(f"none of {read} records gave a document")


def _divided(build: Build, source: Source, files: list[RawFile]) -> list[RawFile]:
    """The files, a big one in parts where its reader can begin within it."""
    reader, limits = READERS[source.reader], _limits(source, None)
    options = reader.options.model_validate(source.options)
    divided = []
    for file in files:
        parts = reader.divide(file, options, limits, build.context.executor) if reader.divide else []
        divided += [file._replace(part=part) for part in parts] or [file]
    return divided


def _limits(source: Source, extractor: Extractor | None) -> Limits:
    return Limits(source.max_document_bytes, source.max_file_bytes, source.max_ratio, extractor)


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
        limits = _limits(source, extractor)
        for file in files:
            for item in _items(source, file, limits):
                row = admitted(source.name, source.kind, file, item, limits.document_bytes)
                if isinstance(row, Skipped):
                    reasons[row.reason] += 1
                    continue
                row, size = row
                if "error" in row:
                    quarantine.add(row, size)
                    counts["quarantined"] += 1
                else:
                    shards.add(row, size)
                    counts["documents_out"] += 1
                    counts["bytes_text"] += size
    counts["skipped"] = reasons.total()
    return {**counts, "skipped_by_reason": dict(sorted(reasons.items()))}


def _is_pointer(file: RawFile) -> bool:
    """Whether a repository was cloned without its large files."""
    if file.path.stat().st_size > 1024:
        return False
    with file.path.open("rb") as stream:
        return stream.read(len(LFS)) == LFS


def _items(source: Source, file: RawFile, limits: Limits):
    """What the reader finds in a file; an empty file and a failure of the reader are items too."""
    reader = READERS[source.reader]
    if file.path.stat().st_size == 0:
        yield Skipped("empty file") if reader.empty else Problem("0", 0, "empty file")
        return
    if _is_pointer(file):
        yield Problem("0", 0, "a pointer of Git LFS, not the file itself; get the files with: git lfs pull")
        return
    found, last = 0, "0"
    items = reader.read(file, limits, reader.options.model_validate(source.options))
    while True:
        try:
            item = next(items, None)
        except (HelperError, StoreError):  # of this machine or the network, not of the file
            raise
        except Exception as error:  # whatever a raw file can provoke must not stop the run
            yield Problem(last, -1, f"reader failed after record {last}: {type(error).__name__}: {error}")
            return
        if item is None:
            break
        found, last = found + 1, getattr(item, "place", last)
        yield item
    if not found and not file.part:
        yield Problem("0", 0, "no records in the file")
