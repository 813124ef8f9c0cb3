"""Lines and paragraphs by hash: where they are, and which of them are found too often."""

from __future__ import annotations

import numpy as np

from curation.compiled import njit
from curation.dedup.shingles import BLOCK, TABLES, hash_words
from curation.dedup.windows import RUN
from curation.key_kernels import mix64
from curation.measure.hashing import HASH_START, extend_hash

# A line or paragraph: 128 bits of hash, and what would be cut of its document: all of it, newlines included.
SEGMENT = np.dtype([("key", "<u8"), ("check", "<u8"), ("document", "<u4"), ("start", "<u4"), ("end", "<u4")])
_OTHER_START = np.uint64(0x9E3779B97F4A7C15)
_OTHER_FACTOR = np.uint64(0xD1342543DE82EF0B)


def find_segments(
    data: np.ndarray,
    offsets: np.ndarray,
    documents: np.ndarray,
    scope: int,
    *,
    paragraphs: bool,
    words: bool,
    min_bytes: int,
) -> np.ndarray:
    """The lines or paragraphs of texts of at least `min_bytes` bytes, white space around them apart: SEGMENT[k].

    `scope`: 64 bits; segments of different scopes have different hashes. `words`: hash their words alone.
    """
    out = np.empty(max(64, len(data) // 64), SEGMENT)
    return _find(data, offsets, documents, np.uint64(scope), paragraphs, words, min_bytes, TABLES, out)


def frequent_segments(
    segments: np.ndarray, dropped: np.ndarray, repeats: int, *, occurrences: bool, keep_first: bool
) -> np.ndarray:
    """The segments to cut, of those of equal hash that are counted more than `repeats` times: RUN[k].

    Counted are documents, or occurrences. With `keep_first` the twin is one that stays: the first in an earlier
    document that is not `dropped` (bool, by number), or in the same one; when documents are counted, the others of
    its document stay too. Else all are cut, and the twin is the first of them. `segments` in any order.
    """
    by = ("start", "document", "check", "key")
    segments = segments[np.lexsort([segments[name] for name in by])]
    runs = np.empty(len(segments), RUN)
    return runs[: _frequent(segments, dropped, repeats, occurrences, keep_first, runs)]


@njit(nogil=True)
def _white(byte):
    return byte == 0x20 or (byte >= 0x09 and byte <= 0x0D)


@njit(nogil=True)
def _line_end(data, at, end):
    """The place after the line that holds byte `at`, newline included."""
    while at < end and data[at] != 0x0A:
        at += 1
    return min(end, at + 1)


@njit(nogil=True)
def _filled(data, at, end):
    """Whether there is more than white space in data[at:end]."""
    while at < end and _white(data[at]):
        at += 1
    return at < end


@njit(nogil=True)
def _segment_end(data, start, end, paragraphs):
    """The place after the line or paragraph that begins at `start`, empty lines after a paragraph included."""
    at = _line_end(data, start, end)
    if paragraphs:
        inside = _filled(data, start, at)
        while at < end:
            following = _line_end(data, at, end)
            filled = _filled(data, at, following)
            if filled and not inside:
                break
            inside = filled
            at = following
    return at


@njit(nogil=True)
def _hash(data, start, end, scope, words, tables, buffer):
    """128 bits of hash of data[start:end] without the white space around it, and how many bytes that are."""
    while start < end and _white(data[start]):
        start += 1
    while end > start and _white(data[end - 1]):
        end -= 1
    one, other = HASH_START ^ scope, _OTHER_START ^ scope
    if words:
        at, found = start, 0
        while at < end:
            count, at = hash_words(data, at, end, tables, buffer, 0)
            found += count
            for word in buffer[:count]:
                one, other = extend_hash(one, mix64(word)), (other + word) * _OTHER_FACTOR
        if not found:
            return one, other, 0  # a rule of dashes is no text
    else:
        for at in range(start, end):
            one, other = extend_hash(one, data[at]), (other + np.uint64(data[at])) * _OTHER_FACTOR
    return mix64(one), mix64(other), end - start


@njit(nogil=True, cache=True)
def _find(data, offsets, documents, scope, paragraphs, words, min_bytes, tables, out):
    buffer = np.empty(BLOCK, np.uint64)
    found = 0
    for row in range(len(documents)):
        begin, end = offsets[row], offsets[row + 1]
        at = begin
        while at < end:
            stop = _segment_end(data, at, end, paragraphs)
            key, check, size = _hash(data, at, stop, scope, words, tables, buffer)
            if size >= min_bytes:
                if found == len(out):
                    larger = np.empty(2 * len(out), out.dtype)
                    larger[:found] = out
                    out = larger
                entry = out[found]
                entry["key"], entry["check"], entry["document"] = key, check, documents[row]
                entry["start"], entry["end"] = at - begin, stop - begin
                found += 1
            at = stop
    return out[:found]


@njit(nogil=True, cache=True)
def _frequent(segments, dropped, repeats, occurrences, keep_first, out):
    found = at = 0
    while at < len(segments):
        stop, count = at + 1, 1
        while (
            stop < len(segments)
            and segments[stop]["key"] == segments[at]["key"]
            and segments[stop]["check"] == segments[at]["check"]
        ):
            count += occurrences or segments[stop]["document"] != segments[stop - 1]["document"]
            stop += 1
        if count > repeats:
            keeper = at
            for number in range(at, stop):
                segment, kept = segments[number], segments[keeper]
                if keep_first:
                    same = segment["document"] == kept["document"]
                    if dropped[kept["document"]] and not same:
                        keeper = number
                    if keeper == number or (same and not occurrences):
                        continue
                run = out[found]
                run["document"], run["start"], run["end"] = segment["document"], segment["start"], segment["end"]
                run["twin"], run["twin_start"] = kept["document"], kept["start"]
                found += 1
        at = stop
    return found
