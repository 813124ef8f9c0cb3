"""From rows to documents: what every reader of row files shares, and the readers of plain text fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from curation.config import Strict
from curation.read.record import (
    BadRecordError,
    Document,
    Item,
    Limits,
    Problem,
    RawFile,
    Row,
    Skipped,
    SkipRecord,
    kind_of,
    optional_string,
    scalars,
    string_at,
)
from curation.read.rows import Container, rows

_ISO_DATE = re.compile(r"\d{4}(-\d\d(-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?)?)?", re.ASCII)
Shape = Callable[[dict[str, Any], Any], Document | Iterable[Document]]


class RowOptions(Strict):
    """Options of every reader of rows."""

    container: Container = "auto"


class TextOptions(RowOptions):
    """Options of the reader `records`."""

    text_key: str = "text"  # dotted: "page.body"
    created_key: str | None = None
    columns: tuple[str, ...] | None = None  # of a TSV or CSV file without a header line


def shaped(
    file: RawFile, limits: Limits, options: RowOptions, shape: Shape, columns: tuple[str, ...] | None = None
) -> Iterator[Item]:
    """Apply `shape` to each row: it returns one document or several, or raises BadRecordError or SkipRecord."""
    for row in rows(file, limits, options.container, columns):
        if isinstance(row, Problem):
            yield row
        else:
            yield from shape_row(row, shape, options)


def shape_row(row: Row, shape: Shape, options: Any) -> Iterator[Item]:
    """The documents of one row, each with its place; what `shape` raises as a Problem or as Skipped."""
    try:
        if not isinstance(row.value, dict):
            raise BadRecordError(f"the record is {kind_of(row.value)}, expected an object")
        made = shape(row.value, options)
        if isinstance(made, Document):
            made.place, made.offset = str(row.number), row.offset
            yield made
            return
        for part, document in enumerate(made):
            document.place, document.offset = f"{row.number}/{part}", row.offset
            yield document
    except BadRecordError as error:
        yield Problem(
            str(row.number), row.offset, str(error), row.raw or repr(row.value)[:1000].encode("utf-8", "replace")
        )
    except SkipRecord as reason:
        yield Skipped(str(reason))


def records(file: RawFile, limits: Limits, options: TextOptions) -> Iterator[Item]:
    """Rows with a text field; the other short fields become metadata."""
    return shaped(file, limits, options, text_field, options.columns)


def text_field(row: dict[str, Any], options: TextOptions) -> Document:
    text = string_at(row, options.text_key)
    document = Document(text=text, metadata=scalars(row, without=[options.text_key]))
    created = optional_string(row, options.created_key) if options.created_key else ""
    document.created = created if _ISO_DATE.fullmatch(created) else None  # else it stays in the metadata
    return document
