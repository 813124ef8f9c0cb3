"""Shingles and MinHash signatures: kernels against plain Python, and against datasketch."""

from __future__ import annotations

import unicodedata

import datasketch
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.dedup import minhash
from curation.dedup.minhash import signatures
from curation.dedup.scheme import PRESETS, Scheme
from curation.dedup.shingles import (
    BLOCK,
    TABLES,
    hash_words,
    roll,
    shingle_hash,
    shingle_hash64,
    shingles,
    words,
)

SMALL = Scheme(ngram=3, bands=3, rows=3, seed=7)  # 9 permutations: no multiple of a vector's width
# Words in Latin with accents, Greek, Cyrillic, ideographs, kana, Thai with marks, digits, and long runs.
SOME_TEXT = (
    "Ångström İstanbul ΣΊΣΥΦΟΣ Привет, мир! 世界は ひらがなカタカナ ภาษาไทย e\u0301te\u0301 ½ Ⅷ snake_case x"
    + "é" * 21
)

texts = st.one_of(
    st.text(max_size=120),
    st.text("aB_9 .\né世ก้ไ\u0301İΣ𝒳", max_size=80),
    st.lists(st.text("abcXYZ0é", min_size=1, max_size=20), max_size=30).map(" ".join),
    st.lists(
        st.sampled_from(
            [*"aZ_9 .\n@[`{", "eight888", "NineChars", "a_long_Word" * 7, " " * 70, "it’s", "世界", "é"]
        ),
        max_size=60,
    ).map("".join),
)


def by_datasketch(text: str, scheme: Scheme) -> np.ndarray:
    sketch = datasketch.MinHash(scheme.permutations, scheme.seed, hashfunc=shingle_hash, scheme="affine32")
    for shingle in shingles(text, scheme.ngram):
        sketch.update(shingle)
    return sketch.hashvalues


def shingle_hashes(text: str, ngram: int, capacity: int = 4096) -> list[int]:
    """By the kernel, which reads on where more bytes follow: letters, that must not be taken for the text's."""
    end = len(text.encode())
    data = np.frombuffer(text.encode() + b"X" * 99, np.uint8)
    found, out = np.empty(capacity, np.uint64), np.empty(capacity, np.uint64)
    count, position = hash_words(data, 0, end, TABLES, found, 0)
    assert position == end
    exact, _ = hash_words(data[: max(1, end)], 0, end, TABLES, out, 0)  # nothing follows
    assert exact == count
    np.testing.assert_array_equal(out[:exact], found[:count])
    roll(found, count, ngram, out)
    return [int(h) for h in out[: max(0, count - ngram + 1)]]


@settings(deadline=None)
@given(texts, st.integers(1, 5))
def test_a_full_buffer_is_gone_on_from_where_it_was_full(text, room):
    data = np.frombuffer(text.encode() + b"X" * 99, np.uint8)
    end, position, count, found = len(data) - 99, 0, -1, []
    buffer = np.empty(room, np.uint64)
    while count:
        count, position = hash_words(data, position, end, TABLES, buffer, 0)
        found += buffer[:count].tolist()
    whole = np.empty(4096, np.uint64)
    count, _ = hash_words(data, 0, end, TABLES, whole, 0)
    assert found == whole[:count].tolist()


@settings(deadline=None)
@given(texts, st.integers(1, 6))
@example(SOME_TEXT, 1)
@example("abcdefgh abcdefghi ABCDEFGHIJKLMNOPQ", 2)
def test_kernel_hashes_the_reference_shingles(text, ngram):
    assert shingle_hashes(text, ngram) == [shingle_hash64(s) for s in shingles(text, ngram)]


@settings(deadline=None)
@given(texts)
@example(SOME_TEXT)
def test_words_hold_every_letter_and_nothing_else(text):
    """Against unicodedata alone: no letter, number or mark is lost, nothing else gets in, no word is empty."""
    kept = [c for c in text if unicodedata.category(c)[0] in "LNM" or c == "_"]
    assert "".join(w.decode() for w in words(text)) == "".join(c.lower()[0] for c in kept)
    assert all(words(text))


def test_words_of_each_kind_of_script():
    found = [word.decode() for word in words("Don't stop: café №5 3.14 世界x ก้อ snake_case")]
    assert found == ["don", "t", "stop", "café", "5", "3", "14", "世", "界", "x", "ก้", "อ", "snake_case"]


@settings(deadline=None)
@given(st.lists(texts, max_size=4))
@example([SOME_TEXT, "", "one two", "one two three"])
def test_signatures_are_bit_equal_to_datasketch(documents):
    got, has = signatures(pa.array(documents, pa.large_string()), SMALL)
    for text, row, flag in zip(documents, got, has, strict=True):
        assert flag == bool(shingles(text, SMALL.ngram))
        if flag:
            np.testing.assert_array_equal(row, by_datasketch(text, SMALL))
        else:
            assert not row.any()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_bit_equal_to_datasketch_on_text_longer_than_a_block(name):
    text = " ".join(f"w{i * 7919 % 1009}" for i in range(BLOCK + 300))
    got, has = signatures(pa.array([text], pa.large_string()), PRESETS[name])
    assert has.all()
    np.testing.assert_array_equal(got[0], by_datasketch(text, PRESETS[name]))


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_block_boundaries_lose_no_shingle(extra):
    """Texts that end just before, at and just after a full buffer, and words that begin where one ends."""
    text = " ".join(f"w{i}" for i in range(BLOCK + SMALL.ngram - 1 + extra))
    got, _ = signatures(pa.array([text], pa.large_string()), SMALL)
    np.testing.assert_array_equal(got[0], by_datasketch(text, SMALL))


def test_chunks_slices_and_nulls_change_nothing():
    documents = ["alpha beta gamma delta", None, "", "x y", "the quick brown fox jumps", "ünï cödé wörds hére"]
    whole, has = signatures(pa.array(documents, pa.large_string()), SMALL)
    assert has.tolist() == [True, False, False, False, True, True]
    chunked = pa.chunked_array(
        [pa.array(documents[:3], pa.large_string()), pa.array(documents[3:], pa.large_string())]
    )
    for other in (chunked, pa.array(["before", *documents, "after"], pa.large_string()).slice(1, 6)):
        values, flags = signatures(other, SMALL)
        np.testing.assert_array_equal(values, whole)
        np.testing.assert_array_equal(flags, has)
    empty, flags = signatures(pa.array([], pa.large_string()), SMALL)
    assert empty.shape == (0, 9)
    assert flags.shape == (0,)


def test_a_changed_permutation_or_premix_is_noticed(monkeypatch):
    """The planted twin of the equality tests: summands drawn from another seed, or no pre-mix."""
    documents = pa.array(["one two three four five six"], pa.large_string())
    expected = by_datasketch(documents[0].as_py(), SMALL)
    honest = minhash.permutations
    monkeypatch.setattr(
        minhash, "permutations", lambda s: (honest(s)[0], honest(Scheme(**s.model_dump() | {"seed": 8}))[1])
    )
    assert not np.array_equal(signatures(documents, SMALL)[0][0], expected)
    factors, summands = honest(SMALL)
    unmixed = [factors * np.uint32(shingle_hash(s)) + summands for s in shingles(documents[0].as_py(), 3)]
    assert not np.array_equal(np.min(unmixed, axis=0), expected)


def test_estimate_is_close_to_the_true_jaccard():
    scheme = Scheme(bands=64, rows=16)
    numbers = np.random.default_rng(3).integers(0, 50_000, 4000)
    first = [f"w{i}" for i in numbers]
    second = list(first)
    for at in range(0, 4000, 40):
        second[at] = "changed"
    a, b = set(shingles(" ".join(first), 5)), set(shingles(" ".join(second), 5))
    got, _ = signatures(pa.array([" ".join(first), " ".join(second)], pa.large_string()), scheme)
    true = len(a & b) / len(a | b)
    assert abs((got[0] == got[1]).mean() - true) < 4 * (true * (1 - true) / scheme.permutations) ** 0.5


def test_hash_bits_are_even_and_flip():
    """Each of the 64 bits is set in about half of the hashes, and a swap of two words flips about half of them."""
    hashes = np.array([shingle_hash64(b"the %d cat sat %d" % (i, i // 7)) for i in range(4000)], np.uint64)
    bits = np.unpackbits(hashes.view(np.uint8)).reshape(-1, 64)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.05
    pairs = [(b"%d a b c %d" % (i, i + 1), b"%d a b c %d" % (i + 1, i)) for i in range(2000)]
    flips = np.array([shingle_hash64(x) ^ shingle_hash64(y) for x, y in pairs], np.uint64)
    bits = np.unpackbits(flips.view(np.uint8)).reshape(-1, 64)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.06
    assert len(set(hashes.tolist())) == len(hashes)


def test_detection_curve_of_the_published_schemes():
    """FineWeb's 14 x 8 and Dolma 3's 26 x 11, to the figures that their reports give."""
    curve = PRESETS["fineweb"].detection(np.array([0.5, 0.6, 0.7, 0.75, 0.8, 0.85]))
    np.testing.assert_allclose(curve, [0.053, 0.21, 0.565, 0.772, 0.924, 0.988], atol=0.002)
    curve = PRESETS["dolma3"].detection(np.array([0.6, 0.8]))
    np.testing.assert_allclose(curve, [0.090, 0.903], atol=0.002)


def test_wrong_type_and_wrong_scheme_are_refused():
    with pytest.raises(TypeError, match="large_string"):
        signatures(pa.array(["short"], pa.string()), SMALL)
    with pytest.raises(ValidationError, match="bands"):
        Scheme(bands=0)
    with pytest.raises(ValidationError, match="permutation"):
        Scheme(permutation=5)
