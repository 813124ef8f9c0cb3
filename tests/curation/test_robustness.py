"""No text breaks the measuring pass: all groups and edits over arbitrary Unicode, bytes, very long documents."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.ingest import Source, ingest
from curation.measure.station import measure
from curation.schema import metadata_of
from tests.curation.robustness import CONFIG, EDITS, PIECES, documents_of, measured

ROOT = Path(__file__).parents[2]
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=20).map("".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXT, min_size=1, max_size=5))
def test_a_row_depends_on_no_other_row_of_its_batch(texts):
    documents = documents_of(texts)
    whole = measured(documents)
    apart = pa.concat_tables([measured(documents.slice(place, 1)) for place in range(len(texts))])
    assert whole.equals(apart.combine_chunks())


@settings(deadline=None, max_examples=40)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4), st.integers(0, 3))
def test_bytes_that_are_no_utf8_are_measured_too(contents, skip):
    documents = documents_of([""] * len(contents), contents)
    assert len(measured(documents)) == len(contents)
    assert measured(documents).slice(skip).equals(measured(documents.slice(skip)))


def test_metadata_with_lone_surrogates_can_be_read():
    assert metadata_of('{"url": "a\\ud800b", "n": NaN}') == {"url": "a\ufffdb", "n": None}
    assert metadata_of('{"url": "\\ud83d\\ude00"}') == {"url": "😀"}
    assert metadata_of("[1]") == metadata_of("") == metadata_of(None) == {}


def test_lone_surrogates_of_raw_json_are_quarantined_or_read_as_metadata(context, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b'{"text": "lone \\ud800 surrogate"}\n'
        b'{"text": "fine", "url": "http://x.org/\\udfff"}\n'
        b'{"text": "fine", "n": NaN, "url": "http://x.org/\\udfff"}\n'  # for the parser that takes both
        b'{"text": "a NUL: \\u0000"}\n'
        b'{"text": "x"}\n'
    )
    pool = ingest(context, Source(name="web", reader="records", root=str(tmp_path)))
    assert (pool.counts["records_read"], pool.counts["documents_out"], pool.counts["quarantined"]) == (5, 3, 2)
    assert measure(context, pool, CONFIG, EDITS).counts["documents_out"] == 3


LONG = {
    "one letter": "a",
    "words": "The quick brown fox jumps over the lazy dog. ",
    "newlines": "\n",
    "short lines": "a\n",
    "stops": ".",
    "spaces": " ",
    "at signs": "a@",
    "addresses": "a.b@c.de ",
    "digits": "4",
    "plus signs": "+1",
    "groups": "4111 ",
    "brackets": "(212) ",
    "colons": "2607:",
    "capitals": "GB82 WEST ",
    "phrases": "items in cart ",
    "questions": "? ",
    "ideographs": "東",
    "quotes": "'\"",
    "comments": "/* ",
    "urls": "http://a.b/",
    "NULs": "\x00",
}


def seconds(text: str) -> float:
    started = time.process_time()
    measured(documents_of([text]))
    return time.process_time() - started


@pytest.mark.parametrize("name", LONG)
def test_time_is_in_proportion_to_length(name):
    """Eight times the text may take at most twenty times as long; what is quadratic takes sixty-four times."""
    piece = LONG[name]
    size = (1 << 15) // len(piece)
    measured(documents_of([piece]))
    short = min(seconds(piece * size) for _ in range(3))
    assert min(seconds(piece * 8 * size) for _ in range(2)) < 20 * short + 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ["words", "short lines", "ideographs", "NULs"])
def test_a_document_of_50_megabytes(name):
    piece = LONG[name]
    text = piece * (50_000_000 // len(piece.encode()))
    assert measured(documents_of([text]))["chars"].to_pylist() == [len(text)]


@pytest.mark.slow
def test_no_kernel_reads_past_a_buffer(tmp_path):
    """Compiled anew with bounds checks, which raise IndexError; arbitrary bytes through all groups and edits.

    Nothing is optimised: the checks are there before LLVM is, which took most of the time.
    """
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_OPT": "0", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.curation.robustness", "7"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
