"""Big files in parts: whatever the division, the records are those of the whole file."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.executor import LocalExecutor
from curation.files import file_hash
from curation.ingest import Source, ingest
from curation.read import division, streams
from curation.read.record import Limits, Problem, RawFile
from curation.read.rows import lines, rows
from curation.steps import Context

INLINE = LocalExecutor(1)
LINES = st.lists(st.sampled_from([b"", b"a", b"bc\r", b"\r", b"line", b"x" * 40, b"y" * 130]), max_size=40)


def divided(file: RawFile, container: str, limits: Limits) -> list[RawFile]:
    return [file._replace(part=part) for part in division.row_parts(file, container, limits, INLINE)] or [file]


def plain(line) -> tuple:
    return (line.place, line.offset, line.error, line.sample) if isinstance(line, Problem) else line


def differences(folder, data: bytes, count: int, monkeypatch) -> list:
    """What is not the same when a file's lines are read in so many parts. Those over 100 bytes are refused."""
    count = min(count, max(1, len(data)))
    path = folder / "lines.jsonl"
    path.write_bytes(data)
    file, limits = RawFile(path, path.name, ""), Limits(document_bytes=100)
    with monkeypatch.context() as patch:
        patch.setattr(division, "_parts", lambda size: count)
        parts = divided(file, "jsonl", limits)
    assert len(parts) == (count if count > 1 else 1)
    whole = [plain(line) for line in lines(file, limits)]
    pieces = [plain(line) for part in parts for line in lines(part, limits)]
    return [pair for pair in zip(whole, pieces, strict=False) if pair[0] != pair[1]] or whole[len(pieces) :]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=LINES, end=st.sampled_from([b"", b"\n"]), count=st.integers(1, 12), chunk=st.integers(1, 50))
def test_lines_are_the_same_in_any_number_of_parts(tmp_path, monkeypatch, parts, end, count, chunk):
    with monkeypatch.context() as patch:
        patch.setattr(streams, "CHUNK", chunk)
        patch.setattr(division, "CHUNK", chunk)
        assert differences(tmp_path, b"\n".join(parts) + end, count, monkeypatch) == []


def test_the_check_of_parts_can_fail(tmp_path, monkeypatch):
    """The twin: a part that begins where its bytes do, and not at a line, is found out."""
    monkeypatch.setattr(streams, "_line_begin", lambda path, place: place)
    assert differences(tmp_path, b"some lines\n" * 20, 3, monkeypatch)


@pytest.mark.parametrize("count", [2, 3, 7, 50])
def test_row_groups_are_the_same_in_any_number_of_parts(tmp_path, monkeypatch, count):
    table = pa.table({"text": [f"text {number} " * (number % 7) for number in range(1000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=90)
    file = RawFile(tmp_path / "a.parquet", "a.parquet", "")
    monkeypatch.setattr(division, "_parts", lambda size: count)
    parts = divided(file, "auto", Limits())
    assert len(parts) == min(count, 12)
    found = [(row.number, row.value["text"]) for part in parts for row in rows(part, Limits(), "auto")]
    assert found == list(enumerate(table["text"].to_pylist()))


def test_what_cannot_be_begun_within_is_not_divided(tmp_path, monkeypatch):
    monkeypatch.setattr(division, "_parts", lambda size: 4)
    (tmp_path / "a.jsonl").write_bytes(b"\x1f\x8b compressed")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 broken PAR1")
    (tmp_path / "a.csv").write_bytes(b'text\n"a\nb"\n')
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "a"}\n' * 9)
    for name in ("a.jsonl", "a.parquet", "a.csv"):
        assert division.row_parts(RawFile(tmp_path / name, name, ""), "auto", Limits(), INLINE) == []
    whole = RawFile(tmp_path / "b.jsonl", "b.jsonl", "")
    assert division.row_parts(whole, "auto", Limits(file_bytes=50), INLINE) == []
    assert len(division.row_parts(whole, "auto", Limits(), INLINE)) == 4


def test_small_parts_and_then_large_ones():
    assert [division._parts(size << 20) for size in (1, 63, 64, 100, 1000, 4096, 100 << 10)] == [
        *(0, 1, 2, 3, 16, 16, 400),
    ]


@pytest.fixture
def corpus(tmp_path):
    """A JSONL file with broken lines, a copy of it, and Parquet of several row groups."""
    folder = tmp_path / "in"
    folder.mkdir()
    made = [json.dumps({"text": f"document {number} " * 20, "n": number}) for number in range(400)]
    made[137], made[300], made[399] = "broken {", "", '{"text": "no end'
    (folder / "a.jsonl").write_text("\n".join(made))
    (folder / "copy.jsonl").write_text("\n".join(made))
    table = pa.table({"text": [f"row {number} " * 30 for number in range(300)]})
    pq.write_table(table, folder / "b.parquet", row_group_size=40)
    return folder


def pool(output) -> list[list[dict]]:
    tables = [
        [pq.read_table(path) for path in output.shards()],
        [pq.read_table(output.folder / "quarantine.parquet")],
    ]
    return [pa.concat_tables(part).sort_by("origin").to_pylist() for part in tables]


def test_a_pool_holds_the_same_documents_with_and_without_parts(tmp_path, corpus, monkeypatch):
    source = Source(name="s", reader="records", root=str(corpus))
    whole = ingest(Context(tmp_path / "whole"), source)
    monkeypatch.setattr(division, "PART", 2000)
    pools = []
    for workers in (1, 2):
        with LocalExecutor(workers) as executor:
            pools.append(ingest(Context(tmp_path / f"parts-{workers}", executor), source))
    assert len(pools[0].shards()) > 8
    assert [file_hash(path) for path in pools[0].shards()] == [file_hash(path) for path in pools[1].shards()]
    assert pool(pools[0]) == pool(whole)
    assert len(pool(whole)[1]) == 4
    assert pools[0].counts == whole.counts
    assert whole.counts["bytes_in"] == sum(path.stat().st_size for path in corpus.iterdir())
