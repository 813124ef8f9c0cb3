"""MinHash signatures of documents, computed in one compiled pass over an Arrow buffer.

The signature of a document is, for each permutation k, the minimum over its shingles s of
`a_k * fmix32(h(s)) + b_k` modulo 2^32, where `h` is `curation.dedup.shingles.shingle_hash`. Permutations and
pre-mix are those of datasketch 2.x, scheme "affine32": a signature is bit-equal to that of
`datasketch.MinHash(num_perm, seed, hashfunc=hashfunc(scheme), scheme="affine32")` updated with the shingles, both
of `curation.dedup.units`, and datasketch's indexes can hold ours. The estimator is due to Broder (1997), "On the
resemblance and containment of documents". Signatures of unit "datatrove" are datatrove's instead.

A document with fewer units than the n-gram has no signature and is never a fuzzy duplicate.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from curation.compiled import njit
from curation.dedup.scheme import Scheme
from curation.dedup.shingles import BLOCK, TABLES, roll
from curation.dedup.units import KINDS, buffers, hash_units

_UNROLL = 8  # shingles that one pass over the permutations takes together


def permutations(scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """The factors (odd) and summands of the permutations, uint32[permutations] each, as datasketch draws them."""
    generator = np.random.RandomState(scheme.seed)
    factors = generator.randint(0, 1 << 31, scheme.permutations, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, generator.randint(0, 1 << 32, scheme.permutations, dtype=np.uint32)


def signatures(texts: pa.Array | pa.ChunkedArray, scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """The signatures of an array of large strings: (scheme.dtype[n, permutations], bool[n] has one).

    Where a text is null or has fewer than `scheme.ngram` units, the row is 0 and the flag false.
    """
    out = np.zeros((len(texts), scheme.permutations), scheme.dtype)
    has = np.zeros(len(texts), np.bool_)
    row = 0
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        rows = slice(row, row + len(chunk))
        row += len(chunk)
        if not pa.types.is_large_string(chunk.type):
            raise TypeError(f"expected an array of large_string, found {chunk.type}; cast it first")
        if scheme.unit == "datatrove":
            from curation.dedup import datatrove  # reads spaCy's tables

            datatrove.write_signatures(chunk, scheme, out[rows], has[rows])
            continue
        data, offsets = buffers(chunk, scheme)
        kind, draws = KINDS[scheme.unit], permutations(scheme)
        _signatures(kind, data, offsets, TABLES, scheme.ngram, *draws, out[rows], has[rows])
    return out, has


def string_buffers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The bytes (uint8) and offsets (int64[n + 1]) of an array of large strings, without a copy.

    A null reads as an empty text. Raises TypeError for another type.
    """
    if not pa.types.is_large_string(texts.type):
        raise TypeError(f"expected an array of large_string, found {texts.type}; cast it first")
    if texts.null_count:
        texts = texts.fill_null("")
    _, offsets, data = texts.buffers()
    if offsets is None or data is None:
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    bounds = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data, np.uint8), bounds


@njit(inline="always")
def _fmix32(h):
    """The finaliser of MurmurHash3 for 32 bits."""
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@njit(nogil=True, cache=True)
def _take_minima(hashes, count, factors, summands, minima):
    """minima[k] <- the least of minima[k] and factors[k] * h + summands[k] over the first `count` hashes.

    `count` is a multiple of 8: that many hashes share each load of a permutation, and the loop over
    permutations becomes vector code of 32-bit lanes.
    """
    for at in range(0, count, 8):
        h0, h1, h2, h3 = hashes[at], hashes[at + 1], hashes[at + 2], hashes[at + 3]
        h4, h5, h6, h7 = hashes[at + 4], hashes[at + 5], hashes[at + 6], hashes[at + 7]
        for k in range(len(factors)):
            a, b = factors[k], summands[k]
            low = min(np.uint32(a * h0 + b), np.uint32(a * h1 + b))
            low = min(low, min(np.uint32(a * h2 + b), np.uint32(a * h3 + b)))
            high = min(np.uint32(a * h4 + b), np.uint32(a * h5 + b))
            high = min(high, min(np.uint32(a * h6 + b), np.uint32(a * h7 + b)))
            minima[k] = min(minima[k], min(low, high))


@njit(nogil=True, cache=True)
def _signatures(kind, data, offsets, tables, ngram, factors, summands, out, has):
    unit_hashes = np.empty(BLOCK + ngram - 1, np.uint64)
    shingle_hashes = np.empty(BLOCK, np.uint64)
    mixed = np.empty(BLOCK, np.uint32)
    for row in range(len(offsets) - 1):
        position, end, kept = offsets[row], offsets[row + 1], 0
        while position < end:
            count, position = hash_units(kind, data, position, end, tables, unit_hashes, kept)
            found = count - ngram + 1
            if found <= 0:
                break  # the text is at its end, since a full buffer holds more than ngram units
            roll(unit_hashes, count, ngram, shingle_hashes)
            for at in range(found):
                mixed[at] = _fmix32(np.uint32(shingle_hashes[at] >> np.uint64(32)))
            padded = -(-found // _UNROLL) * _UNROLL
            mixed[found:padded] = mixed[0]  # a minimum does not mind a repeat
            if not has[row]:
                has[row] = True
                out[row] = np.uint32(0xFFFFFFFF)
            _take_minima(mixed, padded, factors, summands, out[row])
            kept = ngram - 1
            for at in range(kept):
                unit_hashes[at] = unit_hashes[found + at]
