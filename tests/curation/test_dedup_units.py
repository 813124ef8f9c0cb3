"""Shingles of characters and tokens, and bands by similarity, against plain Python and datasketch."""

from __future__ import annotations

from itertools import pairwise

import datasketch
import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.dedup.bands import distinct
from curation.dedup.jaccard import shingle_sets
from curation.dedup.minhash import signatures
from curation.dedup.scheme import Optimised, Scheme
from curation.dedup.settings import Dedup
from curation.dedup.shingles import BLOCK
from curation.dedup.units import characters, encode, hashfunc, reference, shingles

SENTENCE = "The quick brown fox jumps over the lazy dog near the river bank."
texts = st.one_of(st.text(max_size=80), st.text("aB \n\t\u00a0é世İΣ𝒳", max_size=60))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A small byte-level BPE."""
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator([SENTENCE, "naïve café — 日本語", "one two three"] * 3, vocab_size=320)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


def of_characters(**values):
    return Scheme(unit="characters", ngram=4, bands=3, rows=3, **values)


def agree(text, scheme):
    """The kernel's signature and sets are those of the reference shingles, by datasketch and by Python sets."""
    (got,), (has,) = signatures(pa.array([text], pa.large_string()), scheme)
    found = shingles(text, scheme)
    assert has == bool(found)
    if found:
        made = {"hashfunc": hashfunc(scheme), "scheme": "affine32"}
        sketch = datasketch.MinHash(scheme.permutations, scheme.seed, **made)
        sketch.update_batch(found)
        np.testing.assert_array_equal(got, sketch.hashvalues)
        ours = datasketch.MinHash(hashvalues=got, seed=scheme.seed, **made)
        assert ours.jaccard(sketch) == 1.0
    hashes, _ = shingle_sets(pa.array([text], pa.large_string()), scheme)
    assert hashes.tolist() == sorted(map(reference(scheme), set(found)))


@settings(deadline=None)
@given(texts)
@example("a  b\n\nc d e f" * 3)
def test_characters_are_those_of_the_reference_and_of_datasketch(text):
    agree(text, of_characters())


@settings(deadline=None, max_examples=30)
@given(texts)
def test_tokens_are_those_of_the_tokenizer_and_of_datasketch(tokenizer, text):
    agree(text, Scheme(unit="tokens", tokenizer=tokenizer, ngram=2, bands=3, rows=3))


@pytest.mark.parametrize("extra", [-1, 0, 1, BLOCK])
def test_block_boundaries_lose_no_character(extra):
    text = "".join(chr(0x4E00 + i * 7919 % 1009) if i % 5 else "  " for i in range(BLOCK + 3 + extra))
    agree(text, of_characters())


def test_runs_of_blanks_are_one():
    assert characters("A  b\n\n\u00a0C ") == "a b c "


def test_tokens_are_those_of_the_library(tokenizer):
    plain = tokenizers.Tokenizer.from_file(str(tokenizer))
    documents = [SENTENCE, "", "日本語 naïve", "x"]
    ids, starts = encode(pa.array(documents, pa.large_string()), tokenizer)
    expected = [plain.encode(text, add_special_tokens=False).ids for text in documents]
    assert [ids[a:b].tolist() for a, b in pairwise(starts)] == expected


def test_datasketch_indexes_find_our_signatures():
    scheme = of_characters(seed=3)
    documents = [SENTENCE, SENTENCE.replace("lazy", "hazy"), "nothing of the kind is said in this one"]
    rows, _ = signatures(pa.array(documents, pa.large_string()), scheme)
    made = {"hashfunc": hashfunc(scheme), "scheme": "affine32", "seed": scheme.seed}
    sketches = [datasketch.MinHash(hashvalues=row, **made) for row in rows]
    index = datasketch.MinHashLSH(num_perm=scheme.permutations, params=(scheme.bands, scheme.rows))
    for name, sketch in enumerate(sketches):
        index.insert(name, sketch)
    bands = rows.reshape(3, scheme.bands, scheme.rows)
    for name, sketch in enumerate(sketches):
        expected = {other for other in range(3) if (bands[name] == bands[other]).all(1).any()}
        assert set(index.query(sketch)) == expected


@pytest.mark.parametrize(("similarity", "permutations"), [(0.7, 128), (0.8, 256), (0.9, 64)])
@pytest.mark.parametrize("weight", [0.5, 0.1])
def test_bands_are_those_that_datasketch_chooses(similarity, permutations, weight):
    given_ = {"similarity": similarity, "permutations": permutations, "ngram": 3}
    weights = {"false_positive_weight": weight, "false_negative_weight": 1 - weight}
    scheme = Dedup(scheme=given_ | weights).scheme
    lsh = datasketch.MinHashLSH(threshold=similarity, num_perm=permutations, weights=(weight, 1 - weight))
    assert (scheme.bands, scheme.rows, scheme.ngram) == (lsh.b, lsh.r, 3)


def test_a_settings_literals_say_all_that_decides(tokenizer, tmp_path):
    assert Scheme().model_dump(mode="json") == {"ngram": 5, "bands": 14, "rows": 8, "seed": 1}
    assert Scheme(unit="datatrove").model_dump()["hash"] == "xxhash64"
    here = Scheme(unit="tokens", tokenizer=tokenizer).model_dump(mode="json")
    copy = tmp_path / "other.json"
    copy.write_bytes(tokenizer.read_bytes())
    assert Scheme(unit="tokens", tokenizer=copy).model_dump(mode="json") == here
    copy.write_bytes(tokenizer.read_bytes() + b"\n")
    assert Scheme(unit="tokens", tokenizer=copy).model_dump(mode="json") != here


def test_what_does_not_fit_is_refused(tokenizer):
    for wrong in ({"unit": "tokens"}, {"tokenizer": tokenizer}, {"hash": "sha1_64"}):
        with pytest.raises(ValidationError):
            Scheme(**wrong)
    with pytest.raises(ValidationError, match="add up to 1"):
        Optimised(similarity=0.8, false_positive_weight=0.9)
    with pytest.raises(ValidationError, match="bands"):
        Dedup(scheme={"similarity": 0.8, "bands": 3})


@given(st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**64 - 1])))
def test_distinct_numbers_are_those_of_numpy(values):
    array = np.array(values, np.uint64)
    np.testing.assert_array_equal(distinct(array), np.unique(array))
    assert distinct(array).dtype == array.dtype
