"""Bad input ends up in quarantine with its place and reason, and the run goes on."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import zstandard

from curation.ingest import Source, ingest
from curation.steps import StepOutput, StrictError

GOOD = b'{"text": "a sound document"}\n'
LINES = b"".join(b'{"text": "document number %d"}\n' % number for number in range(20_000))
ZIPPED = gzip.compress(LINES, mtime=0)
HUGE = b'{"text": "' + b"x" * 50_000_000 + b'"}\n'
HALF = len(ZIPPED) // 2

# What is in the file, the error that must be told, and the documents that must be kept at least.
BAD = {
    "empty.jsonl": (b"", "empty file", 0),
    "empty-inside.jsonl.gz": (gzip.compress(b""), "no records in the file", 0),
    "cut.jsonl.gz": (ZIPPED[:HALF], "ends within compressed data; the rest of the file is lost", 5000),
    "corrupt.jsonl.gz": (
        ZIPPED[:HALF] + bytes(range(256)) + ZIPPED[HALF + 256 :],
        "the rest of the file is lost",
        5000,
    ),
    "no-gzip.jsonl.gz": (b"\x1f\x8b" + b"nonsense" * 10, "gzip:", 0),
    "cut.jsonl.zst": (zstandard.ZstdCompressor().compress(LINES)[:-9], "zstd: Truncated", 5000),
    "cut.jsonl.bz2": (bz2.compress(LINES)[:-9], "bzip2: the file ends within compressed data", 0),
    "broken-line.jsonl": (GOOD + b'{"text": "no end\n' + GOOD, "not JSON", 2),
    "not-utf8.jsonl": (GOOD + b'{"text": "\xff\xfe"}\n' + GOOD, "invalid UTF-8", 2),
    "surrogate.jsonl": (GOOD + b'{"text": "\\ud800"}\n' + GOOD, "surrogate", 2),
    "surrogate-nan.jsonl": (GOOD + b'{"text": "\\ud800", "a": NaN}\n' + GOOD, "not Unicode text", 2),
    "wrong-type.jsonl": (GOOD + b'{"text": true}\n' + GOOD, "'text' is a Boolean, expected a string", 2),
    "no-key.jsonl": (GOOD + b'{"content": "x"}\n' + GOOD, "'text' is missing; the record has: content", 2),
    "no-object.jsonl": (GOOD + b"[1, 2]\n" + GOOD, "the record is a list, expected an object", 2),
    "deep.jsonl": (GOOD + b"[" * 100_000 + b"\n" + GOOD, "not JSON", 2),
    "huge.jsonl": (GOOD + HUGE + GOOD, "a line of 50000012 bytes, over the 33554432 of max_document_bytes", 2),
    "huge.jsonl.gz": (gzip.compress(GOOD + HUGE + GOOD, 1), "a line of 50000012 bytes", 2),
    "huge-array.json": (b"[" + GOOD + b"," + HUGE + b"]", "an element of over 33554432 bytes", 1),
    "bomb.jsonl.gz": (gzip.compress(GOOD + bytes(200 << 20), 9), "max_ratio", 1),
    "lfs.parquet": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull", 0),
    "broken.parquet": (b"PAR1 nothing of the kind PAR1", "Parquet:", 0),
    "binary.jsonl": (GOOD + bytes(range(256)) * 10, "", 1),
    "open-array.json": (b"[" + GOOD + b", {", "the JSON array is not closed", 1),
}


def ingest_files(folder: Path, context, files: dict[str, bytes], **fields) -> StepOutput:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return ingest(
        context, Source(**({"name": "s", "reader": "records", "root": str(folder), "max_ratio": 500} | fields))
    )


def quarantine(output: StepOutput) -> list[dict]:
    return pq.read_table(output.folder / "quarantine.parquet").to_pylist()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_told_and_the_others_are_read(tmp_path, context, name):
    data, error, kept = BAD[name]
    good = {"good.jsonl": b'{"text": "this one is sound"}\n'}
    output = ingest_files(tmp_path / "in", context, good | {name: data})
    found = quarantine(output)
    assert found
    assert any(error in row["error"] for row in found)
    assert all(row["origin"].startswith(f"{name}#") and len(row["sample"]) <= 200 for row in found)
    texts = [text for path in output.shards() for text in pq.read_table(path)["text"].to_pylist()]
    assert "this one is sound" in texts
    assert len(texts) - 1 >= kept
    counts = output.counts
    assert counts["records_read"] == counts["documents_out"] + counts["quarantined"] + counts["skipped"]
    assert counts["documents_out"] == len(texts)
    assert counts["quarantined"] == len(found)
    context.strict = True
    with pytest.raises(StrictError, match="in quarantine"):
        ingest(context, Source(name="s", reader="records", root=str(tmp_path / "in"), max_ratio=500))


def test_the_check_can_fail(tmp_path, context):
    """The twin: sound files leave the quarantine empty."""
    output = ingest_files(tmp_path / "in", context, {"good.jsonl": GOOD, "good.jsonl.gz": ZIPPED})
    assert quarantine(output) == []
    assert output.counts["documents_out"] == 20_001


def test_offsets_in_the_quarantine_point_at_the_record(tmp_path, context):
    data = GOOD * 3 + b'{"broken": \n' + GOOD
    output = ingest_files(tmp_path / "in", context, {"a.jsonl": data})
    (row,) = quarantine(output)
    assert row["origin"] == f"a.jsonl#3@{3 * len(GOOD)}"
    assert data[row["offset"] :].startswith(b'{"broken": ')
    assert row["sample"] == '{"broken": '


def test_a_control_character_in_the_sample_is_escaped(tmp_path, context):
    output = ingest_files(tmp_path / "in", context, {"a.jsonl": b"\x1b[31m\x00\xff{\n"})
    (row,) = quarantine(output)
    assert row["sample"] == "\\x1b[31m\\x00\\xff{"


def test_whatever_a_reader_raises_is_told(tmp_path, context, monkeypatch):
    def fail(row, options):
        raise KeyError("a bug of the reader")

    monkeypatch.setattr("curation.read.shapes.text_field", fail)
    output = ingest_files(tmp_path / "in", context, {"a.jsonl": GOOD, "b.jsonl": GOOD * 2})
    assert [row["error"] for row in quarantine(output)] == [
        "reader failed after record 0: KeyError: 'a bug of the reader'"
    ] * 2


def test_text_with_nul_is_kept_as_it_is(tmp_path, context):
    output = ingest_files(tmp_path / "in", context, {"a.jsonl": b'{"text": "a\\u0000b"}\n'})
    assert pq.read_table(output.shards()[0])["text"].to_pylist() == ["a\0b"]


def test_an_odd_file_name_is_no_trouble(tmp_path, context):
    folder = tmp_path / "in"
    folder.mkdir()
    with open(os.fsencode(folder) + b"/\xff\nodd.jsonl", "wb") as file:
        file.write(GOOD)
    output = ingest(context, Source(name="s", reader="records", root=str(folder)))
    assert pq.read_table(output.shards()[0])["origin"].to_pylist() == ["\\xff\nodd.jsonl#0@0"]


MEASURE = """
import json, resource, sys
from curation.ingest import Source, ingest
from curation.steps import Context
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ingest(Context(sys.argv[1]), Source(name="s", reader="records", root=sys.argv[2], max_document_bytes="1MiB"))
print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024))
"""


def test_memory_does_not_grow_with_a_line(tmp_path):
    (tmp_path / "in").mkdir()
    with gzip.open(tmp_path / "in/a.jsonl.gz", "wb", 1) as file:
        file.write(GOOD + b'"')
        for _ in range(300):
            file.write(b"x" * (1 << 20))
        file.write(b'"\n' + GOOD)
    assert psutil.virtual_memory().total > 1 << 30
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "ws", tmp_path / "in"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert json.loads(run.stdout) < 100  # MiB, for a line of 300
