"""datatrove's signatures: the values that datatrove itself gives."""

from __future__ import annotations

import pyarrow as pa
import pytest

from curation.dedup import datatrove
from curation.dedup.minhash import signatures
from curation.dedup.scheme import Scheme, Shingling
from curation.dedup.units import shingles

SENTENCE = "The quick brown fox jumps over the lazy dog near the river bank."
GOLDEN = {  # of SENTENCE, made by datatrove 0.10: first shingle's hash, first values, last value
    "xxhash64": (
        7797000677988824208,
        [85330943174081874, 53782044765694948, 285742329127442222],
        3963570588256049,
    ),
    "sha1_64": (
        12313522834835307089,
        [197166454002902972, 284080765670708113, 96549057967596277],
        459059667290475394,
    ),
    "xxhash32": (1936900125, [125697124, 899546107, 441372471], 1493573167),
    "sha1_32": (1208285777, [363782059, 1205137090, 1177392338], 226228629),
}


@pytest.mark.parametrize("hashed", sorted(GOLDEN))
def test_datatrove_signatures_have_the_golden_values(hashed):
    first_shingle, first, last = GOLDEN[hashed]
    scheme = Scheme(unit="datatrove", hash=hashed)
    rows, has = signatures(pa.array([SENTENCE, "only four short words"], pa.large_string()), scheme)
    assert has.tolist() == [True, False]
    assert (rows[0][:3].tolist(), int(rows[0][-1])) == (first, last)
    assert rows.dtype == scheme.dtype
    (hashes, nothing) = datatrove.shingle_hashes(pa.array([SENTENCE, ""], pa.large_string()), 5, hashed)
    assert (len(hashes), int(hashes[0]), len(nothing)) == (9, first_shingle, 0)
    other = signatures(pa.array([SENTENCE], pa.large_string()), Scheme(unit="datatrove", hash=hashed, seed=2))
    assert not (other[0][0] == rows[0]).any()


def test_datatrove_draws_and_text_are_its_own():
    factors, summands = datatrove.permutations(Scheme(unit="datatrove"))
    assert factors[:2].tolist() == [775169054918279404, 1758426461858698313]
    assert summands[:2].tolist() == [1062448801025099917, 1324811268927594100]
    assert datatrove.simplify("Don't PANIC: café №5, 3.14 and 1,000!") == "don t panic cafe №0 0 and 0"
    assert shingles("Don't PANIC: café №5", Shingling(unit="datatrove", ngram=3)) == [
        b"don t panic",
        b"t panic cafe",
        b"panic cafe \xe2\x84\x96",
        b"cafe \xe2\x84\x96 0",
    ]
