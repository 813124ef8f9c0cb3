"""Files of records, against the standard library's readers and for any division into chunks."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.read import rows as rows_module
from curation.read.columnar import parquet_rows
from curation.read.record import Limits, Problem, RawFile, Row
from curation.read.rows import array_rows, json_rows, lines, rows, tsv_rows

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\[]{},', max_size=4), inner, max_size=4)
    ),
    max_leaves=10,
)


@pytest.fixture
def source(tmp_path):
    """Make a RawFile of bytes."""

    def make(data: bytes, name: str = "data.jsonl") -> RawFile:
        path = tmp_path / name
        path.write_bytes(data)
        return RawFile(path, name, "0" * 64)

    return make


def in_pieces(monkeypatch, data: bytes, size: int) -> RawFile:
    """A file that is delivered in pieces of `size` bytes."""
    pieces = [data[place : place + size] for place in range(0, len(data), size)]
    monkeypatch.setattr(rows_module, "chunks", lambda path, limits: iter(pieces))
    return RawFile(Path("none"), "none", "0" * 64)


@settings(max_examples=60, deadline=None)
@given(st.lists(values, max_size=6), st.integers(1, 40), st.sampled_from([None, 1]))
def test_an_array_is_read_as_json_reads_it(elements, size, indent):
    data = json.dumps(elements, indent=indent, ensure_ascii=False).encode()
    with pytest.MonkeyPatch.context() as patch:
        found = list(array_rows(in_pieces(patch, data, size), Limits()))
    assert [row.value for row in found] == elements
    places = [data[row.offset : row.offset + 10_000].decode("utf-8", "ignore").lstrip() for row in found]
    assert [json.JSONDecoder().raw_decode(place)[0] for place in places] == elements


@settings(max_examples=40, deadline=None)
@given(st.lists(values, max_size=6), st.integers(1, 40))
def test_lines_are_read_as_json_reads_them(elements, size):
    data = "".join(json.dumps(element) + "\n" for element in elements).encode()
    with pytest.MonkeyPatch.context() as patch:
        found = list(json_rows(in_pieces(patch, data, size), Limits()))
    assert [row.value for row in found] == elements
    assert [json.loads(data[row.offset :].split(b"\n")[0]) for row in found] == elements


def test_a_line_over_the_limit_is_passed_over_without_being_held(monkeypatch):
    data = b'{"a":1}\n"' + b"x" * 5_000_000 + b'"\n{"a":2}'
    held = list(json_rows(in_pieces(monkeypatch, data, 1000), Limits(document_bytes=10_000)))
    assert [type(item) for item in held] == [Row, Problem, Row]
    assert "5000002 bytes" in held[1].error
    assert (held[1].place, held[1].offset, held[2].offset) == ("1", 8, 8 + 5_000_003)
    assert len(held[1].sample) <= 10_000


def test_what_is_no_json_says_why(source):
    data = b'{"a": 1}\n{"a": \n{"a": "\xff\xfe"}\n{"a": "\\ud800"}\n{"a": NaN}\n\n[1]\n'
    found = list(json_rows(source(data), Limits()))
    kinds = [type(item) for item in found]
    assert kinds == [Row, Problem, Problem, Problem, Row, Row]
    assert "not JSON" in found[1].error
    assert "invalid UTF-8" in found[2].error
    assert "surrogate" in found[3].error
    assert [item.place if isinstance(item, Problem) else str(item.number) for item in found] == list("012346")


def test_a_bad_element_of_an_array_costs_itself_alone(source):
    found = list(array_rows(source(b'[{"a": 1}, {"a": tru}, {"a": 3}]', "a.json"), Limits()))
    assert [type(item) for item in found] == [Row, Problem, Row]
    assert found[2].value == {"a": 3}


@pytest.mark.parametrize("data", [b'[{"a": 1}, {"a": 2', b'[{"a": 1}}, {"a": 2}]', b'[{"a": 1}] trailing', b"["])
def test_an_array_that_does_not_end_well_is_told(source, data):
    found = list(array_rows(source(data, "a.json"), Limits()))
    assert isinstance(found[-1], Problem)
    assert all(item.value == {"a": 1} for item in found[:-1])


def test_json_that_is_no_array_is_lines(source):
    found = list(rows(source(b'{"a": 1}\n{"a": 2}\n', "a.json"), Limits(), "auto"))
    assert [row.value["a"] for row in found] == [1, 2]


def test_tabs_divide_fields_and_their_number_is_checked(source):
    found = list(tsv_rows(source(b'#id\ttext\r\n1\ta "b\r\n2\n3\t\xff\n', "a.tsv"), Limits(), None))
    assert found[0].value == {"id": "1", "text": 'a "b'}
    assert "1 fields, expected 2" in found[1].error
    assert "UTF-8" in found[2].error


def test_parquet_rows_and_a_string_that_is_no_utf8(source, tmp_path):
    strings = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffc")]
    )
    pq.write_table(pa.table({"text": strings}), tmp_path / "a.parquet")
    found = list(parquet_rows(RawFile(tmp_path / "a.parquet", "a", ""), Limits()))
    assert [type(item) for item in found] == [Row, Problem, Row]
    assert (found[1].place, found[2].number, found[2].value) == ("1", 2, {"text": "c"})
    cut = (tmp_path / "a.parquet").read_bytes()[:-9]
    (problem,) = parquet_rows(source(cut, "cut.parquet"), Limits())
    assert "Parquet" in problem.error


def test_a_last_line_without_end_is_a_line(source):
    assert [line[2] for line in lines(source(b"a\n\nb"), Limits())] == [b"a", b"", b"b"]


@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")), min_size=2, max_size=2
        )
    )
)
def test_quoted_fields_are_those_of_python_s_csv(records):
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([["a", "b"], *records])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(written.getvalue().encode())
        found = list(rows(RawFile(path, "a.csv", ""), Limits(), "auto"))
    assert [[row.value["a"], row.value["b"]] for row in found] == records
    assert [row.number for row in found] == list(range(len(records)))


def test_broken_csv_records_are_problems_and_the_others_stand(source):
    data = b',text\n1,"one, ""two""\nthree"\n2\n3,a"b"\n4,"x"y\n5,\xff\n6,last\n7,"open\n8,lost\n'
    found = list(rows(source(data, "a.csv"), Limits(), "auto"))
    assert found[0].value == {"column0": "1", "text": 'one, "two"\nthree'}
    errors = [item.error for item in found[1:5]]
    for wanted, error in zip(
        ("1 fields, expected 2", "a quote inside", "after the closing", "UTF-8"), errors, strict=True
    ):
        assert wanted in error
    assert found[5].value == {"column0": "6", "text": "last"}
    assert (found[6].place, found[6].offset) == ("6", data.index(b"7,"))
    assert "a quote is not closed" in found[6].error
