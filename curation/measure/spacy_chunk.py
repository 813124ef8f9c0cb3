"""Splitting one chunk (a run of characters without white space) as spaCy's English tokenizer does, merging apart.

Positions are characters of the chunk; `Chunk.offsets` says at which byte each begins.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from curation.compiled import njit
from curation.measure.spacy_affixes import infix_length, prefix_length, suffix_length
from curation.measure.spacy_english import INFIX_MAYBE
from curation.measure.spacy_merge import LONGEST_STRING
from curation.measure.spacy_strings import hash_bytes, special_case
from curation.measure.spacy_url import is_url
from curation.measure.utf8 import decode

STOP = 0x2E

# Scratch for a chunk of n characters: code points, classes and byte offsets (n + 1) of its characters, where its
# tokens end, where its suffixes begin (the last one first).
Chunk = namedtuple("Chunk", "codes classes offsets bounds suffixes")


@njit(nogil=True)
def chunk_scratch(size):
    """Scratch for chunks of up to `size` characters."""
    return Chunk(
        np.empty(size + 1, np.int32),
        np.empty(size + 1, np.uint32),
        np.empty(size + 1, np.int32),
        np.empty(size + 1, np.int32),
        np.empty(size + 1, np.int32),
    )


@njit(nogil=True, forceinline=True, _nrt=False)
def split_chunk(text, start, end, tables, chunk):
    """Split text[start:end] into tokens; `chunk.bounds` gets where each ends. Returns how many there are."""
    length = _decode_chunk(text, start, end, tables, chunk)
    high = length
    low, tokens, suffixes, special, before = 0, 0, 0, -1, -1
    strings = tables.strings
    while low < high and high - low != before:
        special = _special(text, start, chunk, low, high, strings)
        if special >= 0:
            break
        before = high - low
        prefix = prefix_length(chunk, low, high)
        if prefix:
            special = _special(text, start, chunk, low + prefix, high, strings)
            if special >= 0:
                low += prefix
                chunk.bounds[tokens] = low
                tokens += 1
                break
        suffix = suffix_length(text, start, chunk, low + prefix, high, strings)
        if suffix:
            special = _special(text, start, chunk, low, high - suffix, strings)
            if special >= 0:
                high -= suffix
                chunk.suffixes[suffixes] = high
                suffixes += 1
                break
        if prefix:
            low += prefix
            chunk.bounds[tokens] = low
            tokens += 1
        if suffix:
            high -= suffix
            chunk.suffixes[suffixes] = high
            suffixes += 1
    if low < high:
        if special >= 0:
            tokens = _add_rule(strings.rule_from, strings.rule_ends, special, chunk, low, tokens)
        elif _has_stop(chunk, low, high) and is_url(chunk.codes, chunk.classes, low, high):
            chunk.bounds[tokens] = high
            tokens += 1
        else:
            tokens = _split_infixes(chunk, low, high, tokens)
    while suffixes:
        suffixes -= 1
        chunk.bounds[tokens] = chunk.suffixes[suffixes - 1] if suffixes else length
        tokens += 1
    return tokens


@njit(nogil=True, forceinline=True, _nrt=False)
def _decode_chunk(text, start, end, tables, chunk):
    length, at = 0, start
    while at < end:
        chunk.offsets[length] = at - start
        if text[at] < 0x80:
            code = np.int64(text[at])
            at += 1
        else:
            code, at = decode(text, at, end)
        chunk.codes[length] = code
        chunk.classes[length] = tables.classes[code]
        length += 1
    chunk.offsets[length] = at - start
    return length


@njit(nogil=True, forceinline=True, _nrt=False)
def _special(text, start, chunk, low, high, strings):
    """The number of the special case that the characters [low, high) are, below 0 if they are none."""
    if low >= high or high - low > LONGEST_STRING:
        return -1
    return special_case(hash_bytes(text, start + chunk.offsets[low], start + chunk.offsets[high]), strings)


@njit(nogil=True, _nrt=False)
def _has_stop(chunk, low, high):
    stops = 0
    for at in range(low, high):
        stops += chunk.codes[at] == STOP
    return stops > 0


@njit(nogil=True, forceinline=True, _nrt=False)
def _add_rule(rule_from, rule_ends, number, chunk, low, tokens):
    """Add the tokens of a special case that begins at `low`. Its ends are in bytes, ours in characters."""
    at = low
    for k in range(rule_from[number], rule_from[number + 1]):
        while chunk.offsets[at] < chunk.offsets[low] + rule_ends[k]:
            at += 1
        chunk.bounds[tokens] = at
        tokens += 1
    return tokens


@njit(nogil=True, forceinline=True, _nrt=False)
def _split_infixes(chunk, low, high, tokens):
    token, at = low, low
    while at < high:
        length = 0
        if chunk.classes[at] & INFIX_MAYBE:
            length = infix_length(chunk, low, at, high)
        if length == 0:
            at += 1
            continue
        if at > low:  # one right at the start stays with what follows
            if at > token:
                chunk.bounds[tokens] = at
                tokens += 1
            token = at + length
            chunk.bounds[tokens] = token
            tokens += 1
        at += length
    if token < high:
        chunk.bounds[tokens] = high
        tokens += 1
    return tokens
