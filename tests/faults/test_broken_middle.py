"""A broken record between two sound ones, in every format: it alone is lost, and told with its place."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.ingest import Source, ingest

LINE = b'{"text": "one"}\n'
TURNS = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
PAIR = (
    json.dumps({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}).encode()
    + b"\n"
)
TASK = {
    "Definition": ["d"],
    "Instances": [{"input": "i", "output": ["o"]}, {"input": 5}, {"input": "j", "output": ["p"]}],
}


def parquet(folder, values: list[bytes]) -> bytes:
    pq.write_table(pa.table({"text": pa.array(values, pa.binary()).view(pa.string())}), folder / "made")
    return (folder / "made").read_bytes()


def arrow(folder, values: list[bytes]) -> bytes:
    table = pa.table({"text": pa.array(values, pa.binary()).view(pa.string())})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


# Reader, kind, file name, bytes, options; then of the broken record its place, its offset and its error.
CASES = {
    "jsonl": ("records", "text", "a.jsonl", LINE + b'{"text"\n' + LINE, {}, "1@16", "not JSON"),
    "json": (
        "records",
        "text",
        "a.json",
        b'[{"text": "a"}, {"text": 5}, {"text": "b"}]',
        {},
        "1@15",
        "is a number",
    ),
    "tsv": ("records", "text", "a.tsv", b"text\tn\na\t1\nb\nc\t2\n", {}, "2@11", "1 fields, expected 2"),
    "csv": ("records", "text", "a.csv", b'text,n\n"a",1\n"b"x,2\nc,3\n', {}, "1@13", "after the closing quote"),
    "parquet": ("records", "text", "a.parquet", parquet, {}, "1", "invalid UTF-8"),
    "arrow": ("records", "text", "a.arrow", arrow, {}, "1", "Invalid UTF8"),
    "lines": ("plain_text", "text", "a.txt", b"a\n\xff\nb\n", {"document": "line"}, "1@2", "invalid UTF-8"),
    "paragraphs": (
        "plain_text",
        "text",
        "a.txt",
        b"a\n\n\xff\n\nb\n",
        {"document": "paragraph"},
        "1@3",
        "invalid UTF-8",
    ),
    "messages": (
        "messages",
        "chat",
        "a.jsonl",
        TURNS + b'{"messages": []}\n' + TURNS,
        {},
        f"1@{len(TURNS)}",
        "empty list",
    ),
    "transcripts": (
        "transcripts",
        "pairs",
        "a.jsonl",
        PAIR + b'{"chosen": "x", "rejected": "y"}\n' + PAIR,
        {},
        f"1@{len(PAIR)}",
        "transcript",
    ),
    "tasks": (
        "natural_instructions",
        "chat",
        "a.json",
        json.dumps(TASK).encode(),
        {},
        "1@0",
        "'input' is a number",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_broken_record_in_the_middle_costs_itself_alone(tmp_path, context, name):
    reader, kind, file, data, options, origin, error = CASES[name]
    if callable(data):
        data = data(tmp_path, [b"one", b"\xff", b"two"])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / file).write_bytes(data)
    source = Source(name="s", kind=kind, reader=reader, root=str(tmp_path / "in"), options=options)
    output = ingest(context, source)
    assert (output.counts["documents_out"], output.counts["quarantined"]) == (2, 1)
    (row,) = pq.read_table(output.folder / "quarantine.parquet").to_pylist()
    assert row["origin"] == f"{file}#{origin}"
    assert row["offset"] == (int(origin.partition("@")[2]) if "@" in origin else -1)
    assert error in row["error"]
