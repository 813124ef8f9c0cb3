"""Method "decon": the items that a document holds, by sampled n-grams of their questions that are then expanded.

For each sampled n-gram of a document that a question has, the match is expanded both ways, n-gram by n-gram, until
`max_misses` consecutive ones are not that question's. The score of a part of the item is the weight (IDF) of its
distinct n-grams found, divided by that of all: of the question those inside the match, of the answer and of the
passage those near it. The item's score is the weighted mean of its parts (`index.WEIGHTS`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from curation.compiled import njit
from curation.decontaminate.index import DeconIndex, gram_of
from curation.decontaminate.settings import Decon
from curation.dedup.minhash import string_buffers
from curation.dedup.shingles import BASE, TABLES, hash_words
from curation.key_kernels import mix64

EPSILON = 1e-9  # sums in another order are the same score, ...
DIGITS = 9  # ... and are written down as the same number
SPARE = 4096  # matches that a call returns beyond one for each item
_BASE = np.uint64(BASE)


class Match(NamedTuple):
    """An item in a document: where its question lies (words) and how much of each part was found.

    A part is None where the item has none; method "ngram_share" names the one part that reached the score, the
    prompt (as `question`) or the answer.
    """

    row: int  # of the array of texts
    item: int  # of the index
    start: int
    end: int
    score: float
    threshold: float
    question: float | None
    answer: float | None
    passage: float | None


class _Knobs(NamedTuple):
    ngram: int
    every: int
    max_misses: int
    short_window: int
    answer_ngram: int
    answer_window: int
    passage_ngram: int
    passage_window: int
    passage_misses: int


class _Scratch(NamedTuple):
    words: np.ndarray  # uint64: the words of the document under way
    clock: np.ndarray  # int64 (1,): a number for each document and each match, never given twice
    seen: np.ndarray  # int64 (items,): the document in which the item was met last, ...
    covered: np.ndarray  # int64 (items,): ... the last n-gram of its match there
    place: np.ndarray  # int64 (items,): ... and its place in the output, -1 for none
    question: np.ndarray  # int64, for each n-gram of the sets: the match that has counted it
    answer: np.ndarray
    passage: np.ndarray


class DeconScanner:
    """Looks for the items of an index in texts. One to a thread: it holds the kernel's scratch arrays."""

    def __init__(self, index: DeconIndex, settings: Decon):
        items = len(index.thresholds)
        self._index = index
        self._knobs = _Knobs(
            settings.ngram,
            settings.sample_every,
            settings.max_misses,
            settings.short_window,
            settings.answer_ngram,
            settings.answer_window,
            settings.passage_ngram,
            settings.passage_window,
            settings.passage_misses,
        )
        sets = (index.question, index.answer, index.passage)
        self._scratch = _Scratch(
            np.empty(0, np.uint64),
            np.zeros(1, np.int64),
            *(np.zeros(items, np.int64) for _ in range(3)),
            *(np.zeros(len(one.hashes), np.int64) for one in sets),
        )
        self._places = np.empty((items + SPARE, 4), np.int64)
        self._scores = np.empty((items + SPARE, 4), np.float64)

    def scan(self, texts: pa.LargeStringArray) -> Iterator[Match]:
        """The matches in an array of texts whose score reaches the item's threshold: one an item a document.

        Of several matches of an item the one of the highest score, and of those the first. By row, then item.
        """
        data, offsets = string_buffers(texts)
        longest = int(np.diff(offsets).max(initial=0)) // 2 + 1
        if longest > len(self._scratch.words):
            self._scratch = self._scratch._replace(words=np.empty(longest, np.uint64))
        row, rows = 0, len(texts)
        while row < rows:
            row, found = _scan(
                data, offsets, row, TABLES, self._index, self._knobs, self._scratch, self._places, self._scores
            )
            order = np.lexsort((self._places[:found, 1], self._places[:found, 0]))
            for place in order.tolist():
                yield self._match(place)

    def _match(self, place: int) -> Match:
        row, item, start, end = self._places[place].tolist()
        score, question, answer, passage = np.round(self._scores[place], DIGITS).tolist()
        index = self._index
        has_passage = index.passage.starts[item + 1] > index.passage.starts[item]
        return Match(
            row,
            item,
            start,
            end,
            score,
            float(index.thresholds[item]),
            question,
            answer if index.answer_words[item] else None,
            passage if has_passage else None,
        )


@njit(inline="always")
def gram_at(words, at, ngram):
    """The hash of the n-gram that begins at word `at`: `curation.dedup.shingles.shingle_hash64` of it."""
    total = np.uint64(0)
    for word in range(at, at + ngram):
        total = total * _BASE + words[word]
    return mix64(total)


@njit(inline="always")
def _member(sets, item, value):
    """Where in its set an item has an n-gram hash, -1 if it has not."""
    low, high = sets.starts[item], sets.starts[item + 1]
    while low < high:
        middle = (low + high) // 2
        if sets.hashes[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low if low < sets.starts[item + 1] and sets.hashes[low] == value else np.int64(-1)


@njit(inline="always")
def _take(sets, counted, place, match):
    """The weight of an n-gram if this match has not counted it yet."""
    if counted[place] == match:
        return 0.0
    counted[place] = match
    return sets.weights[place]


@njit(nogil=True, cache=True)
def _walk(words, count, item, ngram, sets, counted, match, at, step, misses):
    """Go from n-gram `at` on by `step` until `misses` consecutive ones are not the item's.

    Returns (the last n-gram that is, or `at - step`; the weight of the new ones).
    """
    last, missed, weight = at - step, 0, 0.0
    while 0 <= at <= count - ngram and missed < misses:
        place = _member(sets, item, gram_at(words, at, ngram))
        if place >= 0:
            weight += _take(sets, counted, place, match)
            last, missed = at, 0
        else:
            missed += 1
        at += step
    return last, weight


@njit(nogil=True, cache=True)
def _answer(words, first, end, item, index, knobs, counted, match):
    """The weight of the answer's n-grams in words[first:end]; for a short answer whether it is there, 1 or 0."""
    size = index.answer_words[item]
    short, short_end = index.short_starts[item], index.short_starts[item + 1]
    if short < short_end:
        for at in range(first, end - size + 1):
            same = True
            for offset in range(size):
                same = same and words[at + offset] == index.short_words[short + offset]
            if same:
                return 1.0
        return 0.0
    weight = 0.0
    for at in range(first, end - knobs.answer_ngram + 1):
        place = _member(index.answer, item, gram_at(words, at, knobs.answer_ngram))
        if place >= 0:
            weight += _take(index.answer, counted, place, match)
    return weight


@njit(nogil=True, cache=True)
def _answer_score(words, count, low, end, item, index, knobs, counted, match):
    """How much of the answer lies about words[low:end], as far as its window reaches.

    A match may run into the answer, where that goes on as the question did elsewhere. So a longer answer counts
    within the match too, and a short one in the words by which the match is longer than the question; not in the
    others, since an option's letter is in the question.
    """
    size = index.answer_words[item]
    if index.short_starts[item] < index.short_starts[item + 1]:
        first, last = max(0, low - knobs.short_window), min(count, end + knobs.short_window)
        surplus = max(0, end - low - index.question_words[item])
        after = _answer(words, end - surplus, last, item, index, knobs, counted, match)
        return max(after, _answer(words, first, low + surplus, item, index, knobs, counted, match))
    window = max(knobs.answer_window, 2 * size)
    first, last = max(0, low - window), min(count, end + window)
    return _answer(words, first, last, item, index, knobs, counted, match) / index.answer.totals[item]


@njit(nogil=True, cache=True)
def _passage_side(words, count, first, step, item, index, knobs, counted, match):
    """The weight of the passage from its first n-gram within the window on, to where it breaks off."""
    n, misses = knobs.passage_ngram, knobs.passage_misses
    for at in range(first, first + step * (knobs.passage_window + 1), step):
        if at < 0 or at > count - n:
            return 0.0
        if _member(index.passage, item, gram_at(words, at, n)) >= 0:
            _, weight = _walk(words, count, item, n, index.passage, counted, match, at, step, misses)
            return weight
    return 0.0


@njit(nogil=True, cache=True)
def _scan(data, offsets, row, tables, index, knobs, scratch, places, scores):
    """Write the matches of the texts from `row` on. Returns (the row to go on with, matches written)."""
    used = 0
    n = knobs.ngram
    words = scratch.words
    table = index.table
    for number in range(row, len(offsets) - 1):
        count, _ = hash_words(data, offsets[number], offsets[number + 1], tables, words, 0)
        begun = used
        scratch.clock[0] += 1
        document = scratch.clock[0]
        for at in range(0, count - n + 1, knobs.every):
            gram = gram_of(table, gram_at(words, at, n))
            if gram < 0:
                continue
            for owner in range(table.starts[gram], table.starts[gram + 1]):
                item = table.owners[owner]
                if scratch.seen[item] != document:
                    scratch.seen[item], scratch.place[item] = document, -1
                elif at <= scratch.covered[item]:
                    continue
                scratch.clock[0] += 1
                match = scratch.clock[0]
                high, right = _walk(
                    words, count, item, n, index.question, scratch.question, match, at, 1, knobs.max_misses
                )
                low, left = _walk(
                    words, count, item, n, index.question, scratch.question, match, at, -1, knobs.max_misses
                )
                scratch.covered[item] = high
                question = (left + right) / index.question.totals[item]
                weight = index.weights[item]
                needed = index.thresholds[item] - EPSILON
                if weight[0] * question + weight[1] + weight[2] < needed:
                    continue
                answer, passage = 0.0, 0.0
                if index.answer_words[item] > 0:
                    answer = _answer_score(words, count, low, high + n, item, index, knobs, scratch.answer, match)
                if weight[2] > 0:
                    m = knobs.passage_ngram
                    passage = _passage_side(
                        words, count, high + n, 1, item, index, knobs, scratch.passage, match
                    ) + _passage_side(words, count, low - m, -1, item, index, knobs, scratch.passage, match)
                    passage /= index.passage.totals[item]
                score = weight[0] * question + weight[1] * answer + weight[2] * passage
                if score < needed:
                    continue
                place = scratch.place[item]
                if place >= 0 and scores[place, 0] >= score - EPSILON:
                    continue
                if place < 0:
                    if used == len(places):
                        return number, begun  # the caller takes what there is and this document begins anew
                    place, used = used, used + 1
                    scratch.place[item] = place
                places[place, 0], places[place, 1] = number, item
                places[place, 2], places[place, 3] = low, high + n
                scores[place, 0], scores[place, 1] = score, question
                scores[place, 2], scores[place, 3] = answer, passage
    return len(offsets) - 1, used
