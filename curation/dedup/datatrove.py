"""datatrove's MinHash signatures, to compare with data sets made by it: unit "datatrove" of a scheme.

Words are those of spaCy's English tokenizer (`curation.measure.spacy_tokens`) on the text as datatrove simplifies
it (utils/text.py, `simplify_text`, 0.10). The value of a shingle h under a permutation is a h + b, modulo 2^64 and
then modulo 2^61 - 1, of 32-bit hashes the lower 32 bits of that. All a are drawn before all b, unlike datasketch.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from itertools import chain

import numpy as np
import pyarrow as pa
import xxhash

from curation.compiled import njit
from curation.dedup.scheme import Scheme
from curation.measure.spacy_chunk import chunk_scratch
from curation.measure.spacy_english import english
from curation.measure.spacy_tokens import COUNTS, TOKENS, token_scratch, tokenise
from curation.measure.utf8 import text_buffers

PRIME = (1 << 61) - 1
PUNCTUATION = "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
CONTROLS = "".join(map(chr, chain(range(9), range(11, 13), range(13, 32), range(127, 160))))
TO_BLANKS = str.maketrans(dict.fromkeys(PUNCTUATION + CONTROLS, " "))
NUMBER = re.compile("\\d+([.,،٫⎖⎗⎘]\\d+)?")
HASHES = {
    "xxhash64": xxhash.xxh64_intdigest,
    "xxhash32": xxhash.xxh32_intdigest,
    "sha1_64": lambda data: int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest()[:8], "little"),
    "sha1_32": lambda data: int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest()[:4], "little"),
}


def simplify(text: str) -> str:
    """A text as datatrove compares it: lower case, numbers as 0, no punctuation, single blanks, no accents."""
    text = NUMBER.sub("0", text.lower()).translate(TO_BLANKS)
    text = " ".join(text.split())
    if not text.isascii():
        found = unicodedata.normalize("NFD", text)
        text = "".join(character for character in found if unicodedata.category(character) != "Mn")
    return text.strip()


def shingle_hashes(texts: pa.Array, ngram: int, hashed: str) -> list[np.ndarray]:
    """Of each large string the hashes of its shingles in their order, uint64; none where it is too short."""
    digest = HASHES[hashed]
    lists = _shingles(texts, ngram)
    return [np.array([digest(shingle) for shingle in found], np.uint64) for found in lists]


def shingles(text: str, ngram: int) -> list[bytes]:
    """The shingles of a text in their order, repeats included: words joined by one blank."""
    (found,) = _shingles(pa.array([text], pa.large_string()), ngram)
    return [bytes(shingle) for shingle in found]


def _shingles(texts: pa.Array, ngram: int) -> Iterator[list[memoryview]]:
    simple = pa.array([simplify(text) for text in texts.fill_null("").to_pylist()], pa.large_string())
    data, offsets = text_buffers(simple)
    for row in range(len(simple)):
        joined, starts = _joined_words(data, offsets[row], offsets[row + 1], english())
        view, places = memoryview(joined), starts.tolist()
        yield [view[start : end - 1] for start, end in zip(places, places[ngram:], strict=False)]


def permutations(scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """The factors and summands of the permutations, uint64[permutations] each, as datatrove draws them."""
    generator = np.random.RandomState(scheme.seed)
    factors = generator.randint(1, PRIME, scheme.permutations, dtype=np.uint64)
    return factors, generator.randint(0, PRIME, scheme.permutations, dtype=np.uint64)


def write_signatures(texts: pa.Array, scheme: Scheme, out: np.ndarray, has: np.ndarray) -> None:
    """Write the signatures of large strings to `out` (scheme.dtype[n, permutations]); `has` says who has one."""
    factors, summands = permutations(scheme)
    last = np.uint64(np.iinfo(scheme.dtype).max)
    for row, hashes in enumerate(shingle_hashes(texts, scheme.ngram, scheme.hashed)):
        if len(hashes):
            has[row] = True
            out[row] = _minima(hashes, factors, summands, last)


@njit(nogil=True, cache=True)
def _joined_words(data, start, end, tables):
    """The words of data[start:end], a blank behind each (uint8), and where each begins, with the end of all."""
    tokens = token_scratch(end - start, 0)  # simplified text has no line breaks
    counts = np.empty(COUNTS, np.int64)
    tokenise(data, start, end, tables, tokens, chunk_scratch(end - start), counts)
    words = counts[TOKENS]
    size = tokens.ends[words - 1] if words else 0
    joined, starts = np.empty(size + words, np.uint8), np.empty(words + 1, np.int64)
    written = begin = 0
    for word in range(words):
        starts[word] = written
        for at in range(begin, tokens.ends[word]):
            joined[written] = tokens.text[at]
            written += 1
        joined[written] = 0x20
        written += 1
        begin = tokens.ends[word]
    starts[words] = written
    return joined, starts


@njit(nogil=True, cache=True)
def _minima(hashes, factors, summands, last):
    out = np.full(len(factors), last, np.uint64)
    for h in hashes:
        for k in range(len(factors)):
            value = (h * factors[k] + summands[k]) % np.uint64(PRIME) & last
            if value < out[k]:
                out[k] = value
    return out
