"""Every reader by the name that a pipeline gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from curation.config import Strict
from curation.executor import Executor
from curation.read import chat, pairs, python_environment, shapes, text, web
from curation.read.division import line_parts, row_parts
from curation.read.record import Item, Limits, Part, RawFile

Read = Callable[[RawFile, Limits, Strict], Iterator[Item]]


@dataclass(frozen=True)
class Reader:
    """How one format is read, and what of the world its result depends on."""

    read: Read
    kind: str  # text, chat, pairs
    options: type[Strict]
    include: tuple[str, ...] = ("**/*",)  # where the source names none
    depends: tuple[str, ...] = ()  # "python" or distributions whose version can change the result
    empty: bool = False  # an empty file is usual and no problem
    licences: bool = False  # whether a file's folder has a licence for it
    divide: Callable[[RawFile, Any, Limits, Executor], list[Part]] | None = None  # how a big file is divided


def _rows(read: Read, kind: str, options: type[Strict] = shapes.RowOptions) -> Reader:
    return Reader(read, kind, options, divide=_by_rows)


def _by_rows(file: RawFile, options: shapes.RowOptions, limits: Limits, executor: Executor) -> list[Part]:
    return row_parts(file, options.container, limits, executor)


def _by_lines(file: RawFile, options: text.PlainOptions, limits: Limits, executor: Executor) -> list[Part]:
    return line_parts(file, limits, executor) if options.document == "line" else []


def _python(read: Read, kind: str, include: tuple[str, ...] = ("**/*.py",), depends=("python",)) -> Reader:
    return Reader(read, kind, python_environment.EnvironmentOptions, include, depends, empty=True)


LICENCES = tuple(f"*.dist-info/{name}" for name in ("licenses/**/*", "LICEN[CS]E*", "COPYING*", "NOTICE*"))
HTML_FILES = ("**/*.html", "**/*.htm")

READERS: dict[str, Reader] = {
    "records": _rows(shapes.records, "text", shapes.TextOptions),
    "plain_text": Reader(text.plain_text, "text", text.PlainOptions, divide=_by_lines),
    "source_tree": Reader(text.source_tree, "text", text.TreeOptions, empty=True, licences=True),
    "warc": Reader(web.warc, "text", web.WebOptions, depends=("resiliparse", "fastwarc")),
    "html_files": Reader(web.html_files, "text", web.WebOptions, HTML_FILES, ("resiliparse",)),
    "alpaca": _rows(chat.alpaca, "chat", chat.AlpacaOptions),
    "sharegpt": _rows(chat.sharegpt, "chat", chat.ShareOptions),
    "messages": _rows(chat.messages, "chat", chat.MessagesOptions),
    "question_answer": _rows(chat.question_answer, "chat", chat.QuestionOptions),
    "chain_of_thought": _rows(chat.chain_of_thought, "chat"),
    "self_instruct": _rows(chat.self_instruct, "chat"),
    "natural_instructions": Reader(chat.natural_instructions, "chat", chat.TaskOptions),
    "examples": _rows(chat.examples, "chat", chat.ExampleOptions),
    "meetings": _rows(chat.meetings, "chat"),
    "story_questions": _rows(chat.story_questions, "chat"),
    "prompt_chosen_rejected": _rows(pairs.prompt_chosen_rejected, "pairs"),
    "transcripts": _rows(pairs.transcripts, "pairs"),
    "sharegpt_pairs": _rows(pairs.sharegpt_pairs, "pairs"),
    "judged_outputs": _rows(pairs.judged_outputs, "pairs"),
    "annotated_responses": _rows(pairs.annotated_responses, "pairs"),
    "rated_responses": _rows(pairs.rated_responses, "pairs", pairs.RatedOptions),
    "arguments": Reader(pairs.arguments, "pairs", shapes.RowOptions),
    "python_code": _python(python_environment.python_code, "text"),
    "python_docstrings": _python(python_environment.python_docstrings, "text"),
    "package_texts": _python(python_environment.package_texts, "text", ("*.dist-info/METADATA", *LICENCES), ()),
    "package_html": Reader(web.html_files, "text", web.WebOptions, HTML_FILES, ("resiliparse",), empty=True),
    "docstring_chat": _python(python_environment.docstring_chat, "chat"),
    "docstring_pairs": _python(python_environment.docstring_pairs, "pairs"),
}
