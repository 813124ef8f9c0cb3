"""The units of shingles other than words: characters, and the tokens of a tokenizer. See `scheme.Shingling`.

Hashes are made as those of `curation.dedup.shingles`: a unit has a 64-bit hash, a shingle the hash of their
rolling sum. A shingle's bytes, from which `reference` makes the same hash, are the UTF-8 of its characters, or the
ids of its tokens as big-endian integers of four bytes.

Characters are code points, lower-cased as in `curation.measure.unicode`; a run of white space is one blank.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import fastokens
import numpy as np
import pyarrow as pa
import tokenizers

from curation.compiled import njit
from curation.dedup import shingles as words_of
from curation.dedup.scheme import Shingling
from curation.dedup.shingles import BASE, GOLDEN, MASK64, _mix64, hash_words
from curation.key_kernels import mix64
from curation.measure.unicode import FLAGS, LOWER, SPACE
from curation.measure.utf8 import decode, encode_point, text_buffers

WORDS, CHARACTERS, TOKENS = 0, 1, 2
KINDS = {"words": WORDS, "characters": CHARACTERS, "tokens": TOKENS}
TOKEN_BYTES = 4
UNIT_BYTES = (2, 1, TOKEN_BYTES)  # at least: a word and what parts it from the next are two bytes
_GOLDEN = np.uint64(GOLDEN)


def buffers(texts: pa.Array, shingling: Shingling) -> tuple[np.ndarray, np.ndarray]:
    """The bytes (uint8) and offsets (int64[n + 1]) that `hash_units` reads: of texts, or of their token ids."""
    if texts.null_count:
        texts = texts.fill_null("")
    if shingling.unit != "tokens":
        return text_buffers(texts)
    ids, starts = encode(texts, shingling.tokenizer)
    return ids.astype("<u4").view(np.uint8), starts * TOKEN_BYTES


def encode(texts: pa.Array, tokenizer: Path) -> tuple[np.ndarray, np.ndarray]:
    """The token ids of texts, one after the other (uint32), and where each begins (int64, n + 1).

    No special token is added, and one that is spelled in a text is text.
    """
    found = _tokenizer(str(tokenizer))
    values = texts.to_pylist()
    if isinstance(found, fastokens.Tokenizer):
        ids, starts = found.encode_batch_flat(values, split_special_tokens=True)
        return np.frombuffer(ids, "<u4"), np.frombuffer(starts, "<u8").astype(np.int64)
    lists = [one.ids for one in found.encode_batch_fast(values, add_special_tokens=False)]
    return np.array([i for ids in lists for i in ids], np.uint32), np.cumsum([0, *map(len, lists)], dtype=np.int64)


@functools.lru_cache(maxsize=2)
def _tokenizer(path: str) -> fastokens.Tokenizer | tokenizers.Tokenizer:
    """fastokens where it knows the model (byte-level BPE), else tokenizers."""
    try:
        found = fastokens.Tokenizer.from_file(path)
    except ValueError:
        found = tokenizers.Tokenizer.from_file(path)
        found.encode_special_tokens = True
    found.no_truncation()
    found.no_padding()
    return found


def characters(text: str) -> str:
    """The characters of a text as shingles see them. The reference for the kernel."""
    found: list[str] = []
    in_space = False
    for character in text:
        space = bool(FLAGS[ord(character)] & SPACE)
        if not (space and in_space):
            found.append(" " if space else chr(LOWER[ord(character)]))
        in_space = space
    return "".join(found)


def shingles(text: str, shingling: Shingling) -> list[bytes]:
    """The shingles of a text in their order, repeats included; empty if it has fewer units than `ngram`."""
    n = shingling.ngram
    if shingling.unit == "words":
        return words_of.shingles(text, n)
    if shingling.unit == "characters":
        found = characters(text)
        return [found[at : at + n].encode() for at in range(len(found) - n + 1)]
    if shingling.unit == "datatrove":
        from curation.dedup import datatrove  # reads spaCy's tables

        return datatrove.shingles(text, n)
    ids, _ = encode(pa.array([text], pa.large_string()), shingling.tokenizer)
    data = ids.astype(">u4").tobytes()
    return [data[4 * at : 4 * (at + n)] for at in range(len(ids) - n + 1)]


def reference(shingling: Shingling) -> Callable[[bytes], int]:
    """The function from a shingle's bytes to its 64-bit hash."""
    if shingling.unit == "words":
        return words_of.shingle_hash64
    if shingling.unit == "characters":
        return lambda shingle: _rolled([int.from_bytes(c.encode(), "big") for c in shingle.decode()])
    return lambda shingle: _rolled(np.frombuffer(shingle, ">u4").tolist())


def hashfunc(shingling: Shingling) -> Callable[[bytes], int]:
    """The `hashfunc` under which datasketch gives our signatures: the upper 32 bits of `reference`."""
    hash64 = reference(shingling)
    return lambda shingle: hash64(shingle) >> 32


def _rolled(units: list[int]) -> int:
    total = 0
    for unit in units:
        total = (total * BASE + _mix64(GOLDEN ^ unit)) & MASK64
    return _mix64(total)


@njit(nogil=True, cache=True)
def hash_units(kind, data, position, end, tables, out, first):
    """Write the hashes of the units of data[position:end] to out[first:], as many as fit.

    Returns (where in `out` they end, where in `data` the next unit begins). `tables` is shingles.TABLES.
    """
    if kind == WORDS:
        return hash_words(data, position, end, tables, out, first)
    if kind == CHARACTERS:
        return _hash_characters(data, position, end, tables, out, first)
    return _hash_tokens(data, position, end, out, first)


@njit(nogil=True, cache=True)
def _hash_characters(data, position, end, tables, out, first):
    _, flags, lower = tables
    count = first
    while position < end and count < len(out):
        point, following = decode(data, position, end)
        if flags[point] & SPACE == 0:
            encoded, _ = encode_point(np.int64(lower[point]))
            out[count] = mix64(_GOLDEN ^ encoded)
            position = following
        else:
            out[count] = mix64(_GOLDEN ^ np.uint64(0x20))
            while position < end:
                point, following = decode(data, position, end)
                if flags[point] & SPACE == 0:
                    break
                position = following
        count += 1
    return count, position


@njit(nogil=True, cache=True)
def _hash_tokens(data, position, end, out, first):
    count = first
    while position < end and count < len(out):
        token = np.uint64(0)
        for at in range(TOKEN_BYTES):
            token |= np.uint64(data[position + at]) << np.uint64(8 * at)
        out[count] = mix64(_GOLDEN ^ token)
        count += 1
        position += TOKEN_BYTES
    return count, position
