"""Keyed hashes: ids are taken by their value, and what is no id is named."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.keys import draw, join_ids, key_of, keyed_hash, keyed_hash_of, split_ids

IDS = [f"{n:032x}" for n in (0, 1, 1 << 64, (1 << 128) - 1)]


@pytest.fixture(params=["few", "many"], autouse=True)
def _either_way(request, monkeypatch):
    """Few ids go through numpy, many through compiled kernels."""
    if request.param == "many":
        monkeypatch.setattr("curation.keys.FEW", 0)


def test_the_hash_is_that_of_plain_integers():
    key, golden = key_of(1, "holdout"), 0x9E3779B97F4A7C15

    def mix(x):
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    halves = [divmod(int(one, 16), 1 << 64) for one in IDS]
    expected = [mix(mix((a + key + golden) % 2**64) ^ mix((b + 2 * golden) % 2**64)) for a, b in halves]
    assert keyed_hash(IDS, key).tolist() == expected


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_draw_is_the_hash_of_a_hash_and_a_number(hashed, number):
    pair = np.array([hashed], np.uint64), np.array([number], np.uint64)
    assert draw(np.uint64(hashed), number) == keyed_hash_of(*pair, int.from_bytes(b"draw")).item()


def test_halves_are_those_of_the_number():
    high, low = split_ids(IDS)
    assert [(int(a) << 64) + int(b) for a, b in zip(high, low, strict=True)] == [int(one, 16) for one in IDS]


def test_a_hash_depends_on_the_id_and_the_key_alone():
    key = key_of(1, "holdout")
    whole = keyed_hash(IDS, key)
    assert whole.tolist() == [int(keyed_hash([one], key)[0]) for one in IDS]
    assert keyed_hash(pa.chunked_array([IDS[:1], IDS[1:]], pa.string()), key).tolist() == whole.tolist()
    assert keyed_hash(IDS, key_of(2, "holdout")).tolist() != whole.tolist()


@pytest.mark.parametrize("none", [[], pa.array([]), pa.chunked_array([], pa.string()), pa.array([], pa.string())])
def test_no_ids_have_no_halves(none):
    assert [len(half) for half in split_ids(none)] == [0, 0]


@pytest.mark.parametrize(
    "wrong", [["a" * 31, "b" * 33], ["0" * 15 + "  " + "0" * 15], ["g" * 32], [None], [""], ["é" * 16]]
)
def test_what_is_no_id_is_an_error(wrong):
    with pytest.raises(ValueError, match=r"32 hex digits|hexadecimal"):
        split_ids(wrong)


def test_halves_join_to_the_ids_they_are_of():
    assert join_ids(*split_ids(IDS)).to_pylist() == IDS
    assert join_ids(*split_ids([one.upper() for one in IDS])).to_pylist() == IDS
    part = pa.array(["", *IDS, None], pa.string()).slice(1, 4)  # of a longer array: its offsets begin later
    assert join_ids(*split_ids(part)).to_pylist() == IDS


def test_every_byte_is_a_digit_or_is_not():
    """Each byte value in each place of an id, against Python's own idea of a hex digit."""
    for place in (0, 7, 8, 20, 31):
        for byte in range(128):
            text = "5" * place + chr(byte) + "5" * (31 - place)
            if chr(byte) in "0123456789abcdefABCDEF":
                high, low = split_ids([text])
                assert (int(high[0]) << 64) + int(low[0]) == int(text, 16)
            else:
                with pytest.raises(ValueError, match="row 0: a document id is 32 hex digits"):
                    split_ids([text])
