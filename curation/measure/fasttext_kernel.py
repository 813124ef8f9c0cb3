"""Prediction of a supervised fastText model in a compiled kernel, for texts in an Arrow buffer.

The fastText library holds the interpreter lock while it predicts and takes string objects; this does neither. Its
results are the library's: the same words, n-grams and hashes, the mean of their rows, softmax or the tree of
hierarchical softmax, and probabilities raised by the library's 1e-5. Sums are taken in another order, so that
scores differ by rounding, about 1e-6.

What makes it fast: words are found and looked up eight bytes at a time, and FNV-1a runs only over those that the
dictionary does not have; a dictionary word's row and those of its subwords are summed when the model is read, and
an unknown word's sum is kept for the next time it comes; rows are projected to the labels where there are fewer of
them (`fasttext_model`); the rows of a text are found first and added after, eight at a time, so that their cache
misses overlap; and of a large tree only what can be likeliest is looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from curation.compiled import njit
from curation.measure.fasttext_scores import SMALL_TREE, all_leaves, leaf_chance, likeliest_leaf, softmax
from curation.measure.fasttext_subwords import add_words_with_subwords, new_cache
from curation.measure.fasttext_words import (
    END_MARK,
    ENTRY,
    START_OF_LABEL,
    ask_for_key,
    begins_with,
    bucket_row,
    find_blanks,
    find_key,
    modulo,
    word_hash,
    word_key,
)
from curation.measure.row_sums import add_rows, ask_for_row

if TYPE_CHECKING:
    from curation.measure.fasttext_model import FastTextModel

PIECE = 4096  # bytes of a text at a time: what is found in them stays in the nearest cache


def predict(
    model: FastTextModel, data: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest label of each text data[start:end] (uint8, UTF-8): (int32 places in labels, float32 scores).

    White space of ASCII, newlines and NUL divide words, as in fastText. A text without words that the model
    knows anything of still has a label: that of the end-of-text token. -1 and 0 where there is not even that.
    Scores reach 1.00001, as the library's.
    """
    labels, scores, _ = predict_label(model, data, starts, ends, -1)
    return labels, scores


def predict_label(
    model: FastTextModel, data: np.ndarray, starts: np.ndarray, ends: np.ndarray, label: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `predict`, and the score of the label at place `label` for each text (float32; 0 for label -1)."""
    count, width = len(starts), model.words.shape[1]
    if not hasattr(model.kept, "cache"):  # of this thread
        model.kept.cache = (
            new_cache(width) if model.lengths[1] else (model.slots, model.words, np.empty(0, np.uint8))
        )
    hidden, added = np.zeros((count, width), np.float32), np.zeros(count, np.int64)
    inverse = np.uint64(np.iinfo(np.uint64).max // max(1, model.bucket_count))
    hashing = (model.ranks, np.uint64(model.bucket_count), inverse)
    ngrams = (model.buckets, hashing, model.lengths, model.word_ngrams)
    _add_texts(data, starts, ends, (model.slots, model.words), ngrams, model.kept.cache, hidden, added)
    results = np.full(count, -1, np.int32), np.zeros(count, np.float32), np.zeros(count, np.float32)
    tree = (model.output, model.children, model.parents, model.right)
    _choose(hidden, added, tree, len(model.labels), label, *results)
    return results


@njit(nogil=True)
def add_dictionary_words(hidden, data, first, places, count, slots, rows, hashed, hashes, read, entries, keys):
    """Add the words that end at places[:count], the first one beginning at `first`, to `hidden`.

    Returns (where the next word begins, hashes read, rows added, whether </s> stood there, which ends a text). For
    models without subwords: words that the dictionary lacks matter for the n-grams of words only, if `hashed`.
    """
    known, end_key, ended = 0, word_key(END_MARK, 0, len(END_MARK)), False
    start = first
    for n in range(count):
        keys[n] = word_key(data, start, places[n])
        ask_for_key(keys[n], slots)
        start = places[n] + 1
    for n in range(count):
        start, stop = first, places[n]
        first = stop + 1
        if stop == start:
            continue
        held = find_key(keys[n], slots)
        entry = np.int64(held & ENTRY) - 1
        entries[known], hashes[read] = entry, held >> np.uint64(32)
        if 0 <= entry < len(rows):
            ask_for_row(rows, entry)
            known += 1
            read += 1
        elif entry < 0 and hashed and not begins_with(data, start, stop, START_OF_LABEL):
            hashes[read] = word_hash(data, start, stop)
            read += 1
        if keys[n] == end_key:
            ended = True
            break
    add_rows(hidden, rows, entries, known)
    return first, read, np.int64(known), ended


@njit(nogil=True)
def _add_word_ngrams(hidden, hashes, words, carried, longest, buckets, ranks, divisor, inverse, running, found):
    """Add the rows of the n-grams of words that end in hashes[carried:words] to `hidden`; returns how many."""
    known = 0
    for first in range(words):
        running[first] = np.uint64(np.int64(np.int32(hashes[first])))
    for step in range(1, longest):
        for first in range(words - step):
            following = np.uint64(np.int64(np.int32(hashes[first + step])))
            running[first] = running[first] * np.uint64(116049371) + following
        for first in range(max(0, carried - step), words - step):
            found[known], there = bucket_row(modulo(running[first], divisor, inverse), ranks)
            ask_for_row(buckets, found[known])
            known += there
    add_rows(hidden, buckets, found, known)
    return known


@njit(nogil=True, cache=True)
def _add_texts(data, begins, ends, words, ngrams, cache, hidden, added):
    """Add the rows of each text to its row of `hidden`, counting them in `added`.

    A text is taken piece by piece, the last hashes of one carried into the next. The library ends each with </s>.
    Tuples are unpacked here, once: numba counts references to what it takes out of them, and that is slow.
    """
    slots, rows = words
    buckets, (ranks, divisor, inverse), lengths, longest = ngrams
    room = PIECE + 8 + longest
    places, hashes, running = np.empty(room, np.int64), np.empty(room, np.uint32), np.empty(room, np.uint64)
    found, sums = np.empty(room * max(longest, lengths[1]), np.int64), np.empty(rows.shape[1], np.float32)
    for text in range(len(begins)):
        sums[:] = 0
        at, end, carried, total, ended = begins[text], ends[text], 0, np.int64(0), False
        first = at
        while not ended:
            stop = min(at + PIECE, end)
            count = find_blanks(data, at, stop, places)
            places[count] = end
            count += stop == end
            if lengths[1] > 0:
                first, read, more, ended = add_words_with_subwords(
                    sums, data, first, places, count, cache, words, ngrams, hashes, carried, found, running
                )
            else:
                first, read, more, ended = add_dictionary_words(
                    sums, data, first, places, count, slots, rows, longest > 1, hashes, carried, found, running
                )
            total += more
            if stop == end and not ended:
                held, ended = find_key(word_key(END_MARK, 0, len(END_MARK)), slots), True
                entry = np.int64(held & ENTRY) - 1
                if 0 <= entry < len(rows):
                    for column in range(len(sums)):
                        sums[column] += rows[entry, column]
                    total += 1
                hashes[read] = word_hash(END_MARK, 0, len(END_MARK))
                read += 1
            if longest > 1:
                total += _add_word_ngrams(
                    sums, hashes, read, carried, longest, buckets, ranks, divisor, inverse, running, found
                )
                carried = min(read, longest - 1)
                for n in range(carried):
                    hashes[n] = hashes[read - carried + n]
            at = stop
        hidden[text] = sums
        added[text] = total


@njit(nogil=True, cache=True)
def _choose(hidden, added, tree, labels, asked, places, scores, wanted):
    """From the sums of rows to the likeliest label, its score and that of label `asked`; nothing without rows."""
    output, children, parents, right = tree
    small = 0 < len(children) <= SMALL_TREE
    width = output.shape[1] if len(children) > SMALL_TREE else len(output) or labels
    margins, leaves = np.empty(len(children), np.float32), np.empty(max(1, len(parents)), np.float64)
    mean, shares = np.empty(width, np.float32), np.empty(labels, np.float32)
    waiting, chances = np.empty(labels, np.int64), np.empty(labels, np.float64)
    for text in range(len(hidden)):
        if not added[text]:
            continue
        for column in range(len(mean)):
            mean[column] = hidden[text, column] * (np.float32(1) / np.float32(added[text]))
        if small:
            places[text] = all_leaves(mean, output, parents, right, margins, leaves)
            scores[text] = leaves[places[text]]
            if asked >= 0:
                wanted[text] = leaves[asked]
        elif len(parents):
            places[text], scores[text] = likeliest_leaf(mean, output, children, waiting, chances)
            if asked >= 0:
                wanted[text] = leaf_chance(mean, output, parents, right, asked, chances)
        else:
            places[text], scores[text], wanted[text] = softmax(mean, output, asked, shares)
