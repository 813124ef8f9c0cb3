"""Method "ngram_share": the items of which a document holds at least a share of the distinct n-grams, anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from curation.compiled import njit
from curation.decontaminate.detect import SPARE, Match, gram_at
from curation.decontaminate.index import ShareIndex, gram_of
from curation.decontaminate.settings import NgramShare
from curation.dedup.minhash import string_buffers
from curation.dedup.shingles import TABLES, hash_words


class _Scratch(NamedTuple):
    words: np.ndarray  # uint64: the words of the document under way
    clock: np.ndarray  # int64 (1,): documents so far
    counted: np.ndarray  # int64 (n-grams,): the document that has counted the n-gram
    seen: np.ndarray  # int64 (targets,): the document in which the target was met last, ...
    touched: np.ndarray  # int64 (targets,): the targets met in this document
    found: np.ndarray  # int64 (targets,): ... how many of its n-grams that has, ...
    first: np.ndarray  # int64 (targets,): ... and from which word
    last: np.ndarray  # int64 (targets,): to which


class ShareScanner:
    """Looks for the items of an index in texts. One to a thread: it holds the kernel's scratch arrays."""

    def __init__(self, index: ShareIndex, settings: NgramShare):
        targets = len(index.totals)
        self._index, self._settings = index, settings
        self._scratch = _Scratch(
            np.empty(0, np.uint64),
            np.zeros(1, np.int64),
            np.zeros(len(index.table.starts) - 1, np.int64),
            *(np.zeros(targets, np.int64) for _ in range(5)),
        )
        self._out = np.empty((targets + SPARE, 5), np.int64)

    def scan(self, texts: pa.LargeStringArray) -> Iterator[Match]:
        """As `DeconScanner.scan`. An item's score is that of its prompt or of its answer, the higher one."""
        data, offsets = string_buffers(texts)
        longest = int(np.diff(offsets).max(initial=0)) // 2 + 1
        if longest > len(self._scratch.words):
            self._scratch = self._scratch._replace(words=np.empty(longest, np.uint64))
        row, rows = 0, len(texts)
        while row < rows:
            row, used = _scan(
                data,
                offsets,
                row,
                TABLES,
                self._index,
                self._settings.ngram,
                self._settings.threshold,
                self._scratch,
                self._out,
            )
            best: dict[tuple[int, int], Match] = {}
            for found in self._out[:used].tolist():
                match = self._match(*found)
                before = best.get(match[:2])
                if before is None or (match.score, before.answer is not None) > (before.score, False):
                    best[match[:2]] = match
            yield from (best[key] for key in sorted(best))

    def _match(self, row: int, target: int, found: int, start: int, end: int) -> Match:
        index = self._index
        share = found / int(index.totals[target])
        question, answer = (0.0, share) if index.answers[target] else (share, None)
        return Match(
            row, int(index.items[target]), start, end, share, self._settings.threshold, question, answer, None
        )


@njit(nogil=True, cache=True)
def _scan(data, offsets, row, tables, index, ngram, threshold, scratch, out):
    """Write row, target, n-grams found, first word, last word + 1. Returns (the row to go on with, matches)."""
    used = 0
    table, words = index.table, scratch.words
    for number in range(row, len(offsets) - 1):
        count, _ = hash_words(data, offsets[number], offsets[number + 1], tables, words, 0)
        scratch.clock[0] += 1
        document, touched, begun = scratch.clock[0], 0, used
        for at in range(count - ngram + 1):
            gram = gram_of(table, gram_at(words, at, ngram))
            if gram < 0 or scratch.counted[gram] == document:
                continue
            scratch.counted[gram] = document
            for owner in range(table.starts[gram], table.starts[gram + 1]):
                target = table.owners[owner]
                if scratch.seen[target] != document:
                    scratch.seen[target], scratch.found[target], scratch.first[target] = document, 0, at
                    scratch.touched[touched] = target
                    touched += 1
                scratch.found[target] += 1
                scratch.last[target] = at + ngram
        for place in range(touched):
            target = scratch.touched[place]
            if scratch.found[target] / index.totals[target] < threshold:
                continue
            if used == len(out):
                return number, begun
            out[used, 0], out[used, 1], out[used, 2] = number, target, scratch.found[target]
            out[used, 3], out[used, 4] = scratch.first[target], scratch.last[target]
            used += 1
    return len(offsets) - 1, used
