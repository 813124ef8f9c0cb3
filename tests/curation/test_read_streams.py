"""Decompression: every sound byte is delivered, and an error says that there is no more."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.read import streams
from curation.read.record import BrokenFileError, Limits
from curation.read.streams import chunks, compression, plain_name

COMPRESS = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}
TEXT = b"".join(b"line %d %d\n" % (number, number * 7919 % 10007) for number in range(20_000))
WHOLE = {name: compress(TEXT) for name, compress in COMPRESS.items()}


def read(path, limits=Limits()):  # noqa: B008 (immutable)
    """(the bytes delivered, the error or None)."""
    parts = []
    try:
        for chunk in chunks(path, limits):
            parts.append(chunk)  # noqa: PERF402 (what came before an error counts)
    except BrokenFileError as error:
        assert error.offset == sum(map(len, parts))  # noqa: PT017
        return b"".join(parts), error
    return b"".join(parts), None


@pytest.mark.parametrize("name", COMPRESS)
def test_all_members_are_read(tmp_path, name):
    path = tmp_path / "data"
    path.write_bytes(COMPRESS[name](TEXT) + COMPRESS[name](b"more\n"))
    assert compression(path) == name
    assert read(path) == (TEXT + b"more\n", None)


@pytest.mark.parametrize("name", COMPRESS)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.01, 0.999))
def test_a_cut_file_gives_a_prefix_and_an_error(tmp_path, name, share):
    path = tmp_path / "cut"
    whole = WHOLE[name]
    path.write_bytes(whole[: max(7, int(len(whole) * share))])
    data, error = read(path)
    assert error is not None
    assert TEXT.startswith(data)


def test_a_cut_gzip_loses_no_more_than_zlib_cannot_know(tmp_path):
    path = tmp_path / "data.gz"
    whole = gzip.compress(TEXT, mtime=0)
    path.write_bytes(whole[: len(whole) // 2])
    data, _ = read(path)
    assert abs(len(data) - len(TEXT) // 2) < len(TEXT) // 8


def test_corruption_within_gzip_keeps_what_comes_before(tmp_path):
    path = tmp_path / "data.gz"
    whole = bytearray(gzip.compress(TEXT, mtime=0))
    middle = len(whole) // 2
    whole[middle : middle + 64] = random.Random(1).randbytes(64)
    path.write_bytes(whole)
    data, error = read(path)
    assert error is not None
    same = next((place for place, (a, b) in enumerate(zip(data, TEXT, strict=False)) if a != b), len(data))
    assert same > len(TEXT) // 3


def test_a_bomb_is_stopped_by_ratio_and_by_size(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(100 << 20), 9, mtime=0))
    data, error = read(path, Limits(ratio=100))
    assert "max_ratio" in str(error)
    assert len(data) < 70 << 20
    data, error = read(path, Limits(file_bytes=1 << 20))
    assert "max_file_bytes" in str(error)
    assert len(data) <= 1 << 20


@pytest.mark.parametrize("name", COMPRESS)
def test_a_bomb_of_any_compression_is_stopped_in_bounded_memory(tmp_path, name, monkeypatch):
    monkeypatch.setattr(streams, "RATIO_FROM", 1 << 20)
    path = tmp_path / "bomb"
    path.write_bytes(COMPRESS[name](bytes(20 << 20)))
    assert path.stat().st_size < 30_000
    longest = total = 0
    with pytest.raises(BrokenFileError, match="max_ratio"):  # noqa: PT012 (the error comes after chunks)
        for chunk in chunks(path, Limits(ratio=100)):
            longest, total = max(longest, len(chunk)), total + len(chunk)
    assert longest <= 1 << 18
    assert total <= max(1 << 20, 100 * path.stat().st_size)


def test_zero_padding_after_a_member_is_no_error(tmp_path):
    path = tmp_path / "data.gz"
    path.write_bytes(gzip.compress(b"text", mtime=0) + bytes(1000))
    assert read(path) == (b"text", None)


def test_the_name_loses_the_suffix_of_a_compression():
    assert [plain_name(name) for name in ("a.JSONL.gz", "a.json", "b.tsv.zst")] == ["a.jsonl", "a.json", "b.tsv"]
