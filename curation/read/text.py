"""Readers of plain text: a file, line, paragraph or section a document; source trees."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Literal

from pydantic import field_validator, model_validator

from curation.config import Strict
from curation.read.licences import declared, vendored
from curation.read.record import BrokenFileError, Document, Item, Limits, Problem, RawFile, Skipped, whole_file
from curation.read.rows import lines
from curation.read.streams import chunks, plain_name


class PlainOptions(Strict):
    """Options of the reader `plain_text`."""

    document: Literal["file", "line", "paragraph", "section"] = "file"
    heading: str | None = None  # regular expression of the line with which a section begins

    @field_validator("heading")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> PlainOptions:
        if (self.document == "section") != (self.heading is not None):
            raise ValueError("'document: section' and 'heading' belong together")
        return self


class TreeOptions(Strict):
    """Options of the reader `source_tree`."""

    vendored: bool = True  # whether the files of vendored folders are read, and marked, or passed over


LANGUAGES = {
    ".py": "Python",
    ".pyi": "Python",
    ".pyx": "Cython",
    ".c": "C",
    ".h": "C",
    ".cc": "C++",
    ".cpp": "C++",
    ".hpp": "C++",
    ".cu": "CUDA",
    ".rs": "Rust",
    ".go": "Go",
    ".java": "Java",
    ".js": "JavaScript",
    ".ts": "TypeScript",
    ".rb": "Ruby",
    ".pl": "Perl",
    ".php": "PHP",
    ".lua": "Lua",
    ".sh": "Shell",
    ".sql": "SQL",
    ".r": "R",
    ".jl": "Julia",
    ".tex": "TeX",
    ".md": "Markdown",
    ".rst": "reStructuredText",
    ".html": "HTML",
    ".css": "CSS",
    ".toml": "TOML",
    ".yaml": "YAML",
    ".yml": "YAML",
}


def text_of(raw: bytes) -> str:
    """UTF-8 text without a byte order mark. Raises UnicodeDecodeError."""
    return raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8")


def whole_text(file: RawFile, limits: Limits) -> str | Problem:
    """A file as text, or why it is none."""
    raw = b""
    try:
        raw = whole_file(file, chunks(file.path, limits), limits.document_bytes)
        return text_of(raw)
    except BrokenFileError as error:
        return Problem("0", error.offset, str(error))
    except UnicodeDecodeError as error:
        return Problem("0", error.start, f"invalid UTF-8: {error.reason} at byte {error.start}", raw[:1000])


def plain_text(file: RawFile, limits: Limits, options: PlainOptions) -> Iterator[Item]:
    """Text files; `options.document` says what in them is a document."""
    if options.document == "file":
        text = whole_text(file, limits)
        yield text if isinstance(text, Problem) else Document("0", 0, text)
    elif options.document == "line":
        for line in lines(file, limits):
            yield line if isinstance(line, Problem) else _piece(line[0], line[1], line[2])
    else:
        yield from _pieces(file, limits, options)


def source_tree(file: RawFile, limits: Limits, options: TreeOptions) -> Iterator[Item]:
    """A source file a document. In its metadata: its language by the suffix of its name, its licence (what it
    names itself, else the nearest licence file's) and whether it is other people's code. Its path is its origin.
    """
    foreign = vendored(file.relative)
    if foreign and not options.vendored:
        yield Skipped("vendored")
        return
    text = whole_text(file, limits)
    if isinstance(text, Problem):
        yield text
        return
    language = LANGUAGES.get(PurePosixPath(plain_name(file.path.name)).suffix)
    known = {"language": language, "license": declared(text) or file.licence, "vendored": foreign or None}
    yield Document("0", 0, text, metadata={key: value for key, value in known.items() if value is not None})


def _pieces(file: RawFile, limits: Limits, options: PlainOptions) -> Iterator[Item]:
    """Runs of lines: paragraphs end at a blank line, sections before a line that is a heading."""
    heading = re.compile(options.heading) if options.heading else None
    held: list[bytes] = []
    number, begin, size = 0, 0, 0

    def finish() -> Item:
        if size > limits.document_bytes:
            error = f"a {options.document} of {size} bytes, over the {limits.document_bytes} of max_document_bytes"
            return Problem(str(number), begin, error, b"\n".join(held)[:1000])
        return _piece(number, begin, b"\n".join(held))

    for line in lines(file, limits):
        if isinstance(line, Problem):
            yield line
            continue
        _, offset, raw = line
        starts = heading.match(raw.decode("utf-8", "replace")) if heading else False
        ends = starts if heading else not raw.strip()
        if ends and any(part.strip() for part in held):
            yield finish()
            number, held, size = number + 1, [], 0
        if heading or raw.strip():
            begin = begin if held else offset
            size += len(raw) + 1
            if size <= limits.document_bytes or not held:
                held.append(raw)
    if any(part.strip() for part in held):
        yield finish()


def _piece(number: int, offset: int, raw: bytes) -> Item:
    if not raw.strip():
        return Skipped("blank line")
    try:
        return Document(str(number), offset, text_of(raw))
    except UnicodeDecodeError as error:
        return Problem(str(number), offset, f"invalid UTF-8: {error.reason} at byte {error.start} of it", raw)
