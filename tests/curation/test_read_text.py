"""Plain text: files, lines, paragraphs and sections as documents; source trees."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from curation.read.record import Document, Limits, Problem, RawFile, Skipped
from curation.read.registry import READERS
from curation.read.text import PlainOptions

TEXT = "\ufeff\n = One = \n\nfirst\nline\n\n = = sub = = \n\n = Two = \nsecond\n"


def read(tmp_path, data: bytes, reader: str = "plain_text", name: str = "a.txt", limits=None, **options):
    (tmp_path / name).write_bytes(data)
    entry = READERS[reader]
    file = RawFile(tmp_path / name, name, "")
    return list(entry.read(file, limits or Limits(), entry.options.model_validate(options)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["\n = One = \n\nfirst\nline\n\n = = sub = = \n\n = Two = \nsecond\n"]),
        ({"document": "line"}, [" = One = ", "first", "line", " = = sub = = ", " = Two = ", "second"]),
        ({"document": "paragraph"}, [" = One = ", "first\nline", " = = sub = = ", " = Two = \nsecond"]),
        (
            {"document": "section", "heading": "^ = [^=].* = *$"},
            ["\n = One = \n\nfirst\nline\n\n = = sub = = \n", " = Two = \nsecond"],
        ),
    ],
)
def test_what_is_a_document(tmp_path, options, expected):
    data = TEXT.removeprefix("\ufeff") if options.get("document") else TEXT
    items = read(tmp_path, data.encode(), **options)
    assert [item.text for item in items if isinstance(item, Document)] == expected
    assert not any(isinstance(item, Problem) for item in items)


def test_offsets_point_at_the_document(tmp_path):
    data = b"\n\none\ntwo\n\n\nthree\n"
    items = read(tmp_path, data, document="paragraph")
    assert [data[item.offset :].split(b"\n\n")[0].strip().decode() for item in items] == ["one\ntwo", "three"]


def test_a_paragraph_over_the_limit_and_bytes_that_are_no_utf8(tmp_path):
    data = b"fine\n\n" + b"long line\n" * 100 + b"\n\xff\xfe\n\nalso fine\n"
    items = read(tmp_path, data, document="paragraph", limits=Limits(document_bytes=200))
    assert [type(item) for item in items] == [Document, Problem, Problem, Document]
    assert "max_document_bytes" in items[1].error
    assert "invalid UTF-8" in items[2].error
    (problem,) = read(tmp_path, data)
    assert "invalid UTF-8" in problem.error
    (problem,) = read(tmp_path, data, limits=Limits(document_bytes=200))
    assert "max_document_bytes" in problem.error


def test_blank_lines_are_skipped_and_counted(tmp_path):
    assert read(tmp_path, b"\n  \n", document="line") == [Skipped("blank line")] * 2


def test_source_files_know_their_language(tmp_path):
    for name, metadata in (("a.rs", {"language": "Rust"}), ("b.py.gz", {"language": "Python"}), ("README", {})):
        (item,) = read(tmp_path, b"x = 1\n", "source_tree", name)
        assert (item.text, item.metadata) == ("x = 1\n", metadata)


@pytest.mark.parametrize(
    "options", [{"document": "section"}, {"heading": "x"}, {"document": "section", "heading": "("}]
)
def test_options_that_do_not_go_together(options):
    with pytest.raises(ValidationError):
        PlainOptions.model_validate(options)
