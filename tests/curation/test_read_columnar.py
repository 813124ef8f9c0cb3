"""Parquet and Arrow IPC: every row of every form, broken files, and files that grow when they are read."""

from __future__ import annotations

import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.read.columnar import BATCH_ROWS, _check_bodies, arrow_rows, parquet_rows
from curation.read.record import Limits, Problem, RawFile
from curation.read.rows import rows

FORMS = st.sampled_from(["file", "stream"])
TABLE = pa.table(
    {
        "text": [f"document {number} é" * (number % 5) for number in range(1000)],
        "kind": pa.array([f"kind {number % 3}" for number in range(1000)]).dictionary_encode(),
        "turns": [[{"role": "user", "content": str(number)}] for number in range(1000)],
    }
)


def write(path, table: pa.Table = TABLE, form: str = "file", compression: str | None = None) -> RawFile:
    options = pa.ipc.IpcWriteOptions(compression=compression, unify_dictionaries=True)
    make = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    with make(str(path), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=300)
    return RawFile(path, path.name, "")


@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_every_row_of_both_arrow_formats(tmp_path, form, compression):
    file = write(tmp_path / "a.arrow", form=form, compression=compression)
    found = list(rows(file, Limits(), "auto"))
    assert [row.number for row in found] == list(range(1000))
    assert [row.value for row in found] == TABLE.to_pylist()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.02, 0.98), form=st.sampled_from(["file", "stream"]))
def test_a_cut_arrow_file_gives_a_prefix_and_a_problem(tmp_path, share, form):
    file = write(tmp_path / "a.arrow", form=form)
    data = file.path.read_bytes()
    file.path.write_bytes(data[: int(len(data) * share)])
    *found, problem = arrow_rows(file, Limits())
    assert "the rest of the file is lost" in problem.error
    assert [row.value for row in found] == TABLE.slice(0, len(found)).to_pylist()
    if form == "stream" and share > 0.6:
        assert len(found) >= 300


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.floats(0, 0.999), junk=st.binary(min_size=1, max_size=40), form=st.sampled_from(["file", "stream"])
)
def test_whatever_the_bytes_are_nothing_else_is_raised(tmp_path, place, junk, form):
    file = write(tmp_path / "a.arrow", TABLE.slice(0, 400), form, "zstd")
    data = bytearray(file.path.read_bytes())
    start = int(len(data) * place)
    data[start : start + len(junk)] = junk
    file.path.write_bytes(data)
    for row in arrow_rows(file, Limits(file_bytes=1 << 26)):
        assert isinstance(row, Problem) or row.number < 400


def test_a_broken_string_in_the_middle_costs_its_row_alone(tmp_path):
    values = [b"sound"] * 600
    values[350] = b"\xff"
    strings = pa.array(values, pa.binary()).view(pa.string())
    table = pa.table({"text": strings})
    arrow = write(tmp_path / "a.arrow", table)
    pq.write_table(table, tmp_path / "a.parquet")
    parquet = RawFile(tmp_path / "a.parquet", "a.parquet", "")
    for read, file, error in (
        (arrow_rows, arrow, "UTF8"),
        (parquet_rows, parquet, "invalid UTF-8 in a string column"),
    ):
        found = list(read(file, Limits()))
        assert len(found) == 600
        assert isinstance(found[350], Problem)
        assert found[350].place == "350"
        assert error in found[350].error
        assert all(row.value == {"text": "sound"} for row in found[:350] + found[351:])


@pytest.mark.parametrize("form", ["file", "stream"])
@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_an_arrow_bomb_is_refused_before_it_is_decompressed(tmp_path, form, compression):
    table = pa.table({"text": ["x" * 40_000_000] * 3})
    file = write(tmp_path / "bomb.arrow", table, form, compression)
    before = pa.total_allocated_bytes()
    (problem,) = arrow_rows(file, Limits(ratio=20))
    assert "max_ratio" in problem.error
    (problem,) = arrow_rows(file, Limits(file_bytes=50_000_000))
    assert "max_file_bytes" in problem.error
    assert pa.total_allocated_bytes() - before < 1 << 20
    assert len(list(arrow_rows(file, Limits(ratio=10**6)))) == 3  # the twin: within the limits it is read


def test_what_buffers_say_is_what_they_hold(tmp_path):
    """The reading of flatbuffers against the sizes that pyarrow finds."""
    file = write(tmp_path / "a.arrow", compression="zstd", form="stream")
    size = sum(
        buffer.size
        for batch in TABLE.to_batches(max_chunksize=300)
        for buffer in pa.concat_tables([pa.Table.from_batches([batch])])["text"].combine_chunks().buffers()
        if buffer is not None
    )
    with pa.memory_map(str(file.path)) as source:
        with pytest.raises(ValueError, match="max_file_bytes"):
            _check_bodies(source, 0, file, Limits(file_bytes=size // 2))
        _check_bodies(source, 0, file, Limits(file_bytes=3 * size + 100_000))


def test_a_parquet_file_that_repeats_a_long_value_by_reference_is_stopped(tmp_path):
    table = pa.table({"text": pa.array(["x" * 300_000] * 600)})
    pq.write_table(table, tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 100_000
    found = list(parquet_rows(RawFile(tmp_path / "bomb.parquet", "bomb", ""), Limits(ratio=500)))
    assert "grows over 500 times its size (max_ratio)" in found[-1].error
    assert len(found) <= BATCH_ROWS + 1


def test_a_number_of_rows_without_any_bytes_is_stopped(tmp_path):
    file = write(tmp_path / "null.arrow", pa.table({"text": pa.nulls(10)}))
    data = bytearray(file.path.read_bytes())
    assert data.count(struct.pack("<q", 10)) >= 1
    data = data.replace(struct.pack("<q", 10), struct.pack("<q", 10**12))
    file.path.write_bytes(data)
    found = list(arrow_rows(file, Limits()))
    assert isinstance(found[-1], Problem)
    assert len(found) < 100
