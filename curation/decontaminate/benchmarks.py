"""Evaluation sets: files of records whose fields are a question, an answer and a passage."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from curation.config import Strict
from curation.files import json_hash
from curation.read.inventory import find_files, inventory
from curation.read.record import BadRecordError, Limits, Problem, RawFile, Row, kind_of, value_at
from curation.read.rows import Container, rows
from curation.steps import Context


def _keys(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Keys = Annotated[
    tuple[str, ...], BeforeValidator(_keys, json_schema_input_type=str | tuple[str, ...])
]  # a field, or several that are joined by a blank line


class Benchmark(Strict):
    """One evaluation set: its files, and the (dotted) keys of the fields of a record."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    root: str
    include: tuple[str, ...] = Field(min_length=1)  # globs relative to the root
    container: Container = "auto"  # jsonl, json (an array), tsv or parquet; by the suffix, compressed or not
    question: Keys = Field(min_length=1)
    answer: Keys = ()
    passage: Keys = ()
    item: str | None = None  # key of an item's name; else "file#number"


@dataclass(frozen=True, slots=True)
class Item:
    """One item of an evaluation set."""

    benchmark: str
    name: str
    question: str
    answer: str = ""
    passage: str = ""

    @property
    def prompt(self) -> str:
        """What a model is shown."""
        return f"{self.passage}\n\n{self.question}" if self.passage else self.question


def raw_files(ctx: Context, benchmark: Benchmark) -> list[RawFile]:
    """The files of a benchmark with their hashes, in canonical order. Raises ConfigError if there are none."""
    folder, paths = find_files(benchmark.root, benchmark.include, ())
    where = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return inventory(
        folder, paths, ctx.workspace / "cache" / f"benchmark-{where}-{benchmark.name}.json", ctx.executor
    )


def files_hash(files: list[RawFile]) -> str:
    """What the items of these files depend on. 64 hex digits."""
    return json_hash([[file.relative, file.hash] for file in files])


def read_items(benchmark: Benchmark, files: list[RawFile]) -> tuple[list[Item], list[str]]:
    """The items of the files in canonical order, and a message for each record that gives none."""
    items, problems = [], []
    for file in files:
        for row in rows(file, Limits(), benchmark.container):
            place = row.place if isinstance(row, Problem) else row.number
            try:
                items.append(_item(benchmark, file, row))
            except BadRecordError as error:
                problems.append(f"{file.relative}, record {place}: {error}")
    return items, problems


def _item(benchmark: Benchmark, file: RawFile, row: Row | Problem) -> Item:
    if isinstance(row, Problem):
        raise BadRecordError(row.error)
    name = _text(value_at(row.value, benchmark.item)) if benchmark.item else f"{file.relative}#{row.number}"
    fields = (benchmark.question, benchmark.answer, benchmark.passage)
    return Item(benchmark.name, name, *(_joined(row.value, keys) for keys in fields))


def _joined(value: Any, keys: tuple[str, ...]) -> str:
    return "\n\n".join(_text(value_at(value, key)) for key in keys)


def _text(value: Any) -> str:
    """A field as text: numbers as a person writes them (26.0 is "26"), the strings of a list a line each."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return "\n".join(map(_text, value))
    if value is None:
        return ""
    raise BadRecordError(f"a field is {kind_of(value)}, expected a string, a number or a list of them")
