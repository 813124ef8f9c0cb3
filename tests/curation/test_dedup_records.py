"""Records read in blocks by Arrow, against the same lines read one by one, and fetched again by reference."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.dedup import pieces as pieces_module
from curation.dedup.pieces import pieces
from curation.dedup.records import Fields, parse_block, read_records, record_fields
from curation.dedup.reference import reference_metadata, referenced_texts
from curation.read.record import BadRecordError, Limits, Problem
from curation.read.rows import json_value

FIELDS = Fields(key="id", created="date", score="score")
GOOD = st.fixed_dictionaries(
    {"text": st.text(max_size=30), "id": st.one_of(st.text(max_size=5), st.integers(-9, 9))},
    optional={
        "date": st.one_of(st.none(), st.just("2024-01-02"), st.integers()),
        "score": st.one_of(st.none(), st.floats(-1, 1), st.integers(-3, 3)),
        "other": st.recursive(st.none() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=2)),
    },
).map(lambda value: json.dumps(value, ensure_ascii=False).encode())
BAD = st.sampled_from(
    [
        b"",
        b"  ",
        b"{}",
        b'{"text": 1, "id": 1}',
        b'{"text": null, "id": 1}',
        b'{"text": "a"}',
        b'{"text": "a", "id": 1',
        b'{"text": "a", "id": 1}{"text": "b", "id": 2}',
        b'{"text": "\\ud800", "id": 1}',
        b'{"text": "a", "id": 1, "x": "\xff"}',
        b'{"text": "a", "id": 1, "x": NaN}',
        b'{"text": "a", "text": "b", "id": 1}',
        b'["text"]',
        b'\xef\xbb\xbf{"text": "a", "id": 1}',
        b'{"text": "a", "id": 1}\r',
    ]
)


def plainly(line: bytes, fields: Fields = FIELDS):
    """The expected record of a line, None for a bad or blank one."""
    try:
        values = record_fields(json_value(line), fields)
        values["text"].encode()
    except (BadRecordError, ValueError):
        return None
    return values


@settings(deadline=None, max_examples=150)
@given(st.lists(st.one_of(GOOD, GOOD, GOOD, BAD), max_size=6), st.booleans())
def test_a_block_gives_what_its_lines_give(lines, ends):
    block = b"\n".join(lines) + (b"\n" if ends and lines else b"")
    if not block:
        return
    table, problems = parse_block(100, block, FIELDS, 1 << 20)
    expected = [plainly(line.strip(b" \t\r")) for line in lines if line.strip(b" \t\r")]
    got = table.drop_columns(["offset", "length"]).to_pylist()
    assert got == [values for values in expected if values is not None]
    assert len(problems) == sum(values is None for values in expected)
    for row in table.to_pylist():
        line = block[row["offset"] - 100 :][: row["length"]]
        assert plainly(line)["text"] == row["text"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text('ab"\\\n\t\0/é世𝒳\ud83d ', max_size=150),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('ab"é', max_size=3), inner, max_size=4),
    max_leaves=12,
)
DEEP = Fields(text="page.body", key="id", created="page.day", score="page.score.value", value="page.day")
PAGES = st.fixed_dictionaries(
    {"page": VALUES | st.fixed_dictionaries({"body": VALUES, "day": VALUES, "score": VALUES})},
    optional={"id": VALUES, "page.body": VALUES, "pag": VALUES},
)


@st.composite
def nearly_json(draw):
    """JSON as different writers write it, every other time with a byte changed, put in or left out."""
    value = draw(PAGES)
    style = {
        "ensure_ascii": draw(st.booleans()),
        "separators": draw(st.sampled_from([(",", ":"), (" ,\t", " : ")])),
    }
    line = json.dumps(value, **style).encode("utf-8", "surrogatepass")
    at = draw(st.integers(0, 2 * len(line)))
    byte = draw(st.sampled_from([b"", *(bytes([one]) for one in b'"\\{}[]:,0-.eE n\x1f\x80\xff\xc3u')]))
    return line[:at] + byte + line[at + draw(st.integers(0, 1)) :]


@settings(deadline=None, max_examples=150)
@given(st.lists(nearly_json(), max_size=4), st.sampled_from([b"", b" " * 80]))
def test_lines_that_are_nearly_json_are_read_as_by_a_parser(lines, end):
    lines = [line.replace(b"\n", b"") for line in lines]
    table, problems = parse_block(0, b"\n".join(lines) + end, DEEP, 1 << 20)
    expected = [plainly(line.strip(b" \t\r"), DEEP) for line in lines if line.strip(b" \t\r")]
    got = table.drop_columns(["offset", "length"]).to_pylist()
    assert got == [values for values in expected if values is not None]
    assert len(problems) == sum(values is None for values in expected)


def test_the_kernel_is_sure_of_what_is_usual(monkeypatch):
    """No line of these is read by the slow way, which the test above cannot tell."""
    value = {
        "text": 'tab\t, "quotes", é, 世, 𝒳, \\ and /',
        "meta": {"deep": [{"a": [1, -2.5e3, True, None, {}, []]}]},
    }
    value |= {"id": 12, "date": "2024-01-02", "score": -0.25}
    lines = [json.dumps(value, ensure_ascii=one).encode() for one in (True, False)]
    monkeypatch.setattr("curation.dedup.records._line_by_line", None)
    table, problems = parse_block(0, b"\r\n".join([*lines, b""]), FIELDS, 1 << 20)
    assert not problems
    assert table["text"].to_pylist() == [value["text"]] * 2
    assert (
        table.select(["key", "created", "score"]).to_pylist()
        == [{"key": "12", "created": "2024-01-02", "score": -0.25}] * 2
    )


def texts_of(path, limits=None):
    limits = limits or Limits()
    found, problems = [], []
    for piece in pieces(path):
        for item in read_records(piece, Fields(), limits):
            problems.append(item) if isinstance(item, Problem) else found.extend(item["text"].to_pylist())
    return found, problems


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=12), st.integers(1, 90), st.integers(1, 90))
def test_pieces_and_blocks_of_any_size_give_every_line_once(tmp_path_factory, texts, piece, block):
    path = tmp_path_factory.mktemp("pieces") / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces_module, "PIECE", piece)
        patch.setattr(pieces_module, "BLOCK", block)
        assert texts_of(path) == (texts, [])


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_line_that_is_too_long_is_passed_over(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(pieces_module, "BLOCK", 1 << 10)
    lines = [{"text": "a"}, {"text": "x" * 9000}, {"text": "b"}, {"text": "y" * 3000}]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[suffix]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(pack(data))
    found, problems = texts_of(path, Limits(document_bytes=4000))
    assert found == ["a", "b", "y" * 3000]
    assert ["over 4000 bytes" in problem.error for problem in problems] == [True]


def test_a_broken_gzip_gives_the_whole_lines_before_the_break(tmp_path):
    data = gzip.compress("".join(json.dumps({"text": str(i)}) + "\n" for i in range(1000)).encode())
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(data[: len(data) // 2])
    found, problems = texts_of(path)
    assert found == [str(i) for i in range(len(found))]
    assert found
    assert "the rest of the file is lost" in problems[-1].error


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.parquet"])
def test_texts_are_fetched_again_by_reference(tmp_path, monkeypatch, name):
    monkeypatch.setattr(pieces_module, "BLOCK", 1 << 10)
    texts = [f"text {i} " + "é" * (i % 50) for i in range(400)]
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"text": texts}), path, row_group_size=90)
    else:
        data = "".join(json.dumps({"n": i, "text": t}) + "\n" for i, t in enumerate(texts)).encode()
        path.write_bytes(zstandard.ZstdCompressor().compress(data) if name.endswith("zst") else data)
    (piece,) = pieces(path)
    table = pa.concat_tables(item for item in read_records(piece, Fields(), Limits()))
    shard = tmp_path / "shard.parquet"
    table = table.drop_columns(["text"])
    pq.write_table(table.replace_schema_metadata(reference_metadata(piece, Fields(), Limits())), shard)
    for rows in ([], [0], [3, 4, 399], range(400), range(0, 400, 7)):
        got = [text for batch in referenced_texts(shard, np.array(rows, np.int64)) for text in batch.to_pylist()]
        assert got == [texts[row] for row in rows]
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ValueError, match="changed"):
        list(referenced_texts(shard, np.array([1])))


def test_a_parquet_without_the_column_says_which_it_has(tmp_path):
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"no column 'text'.*body"):
        texts_of(tmp_path / "a.parquet")
