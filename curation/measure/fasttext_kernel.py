"""Prediction of a supervised fastText model in a compiled kernel, for texts in an Arrow buffer.

The fastText library holds the interpreter lock while it predicts and takes string objects; this does neither. Its
results are the library's: the same words, n-grams and hashes (FNV-1a over signed bytes), the mean of their rows,
softmax or the tree of hierarchical softmax, and probabilities raised by the library's 1e-5. Sums are taken in
another order, so that scores differ by rounding, about 1e-6.

Two things make it fast: a word's row and those of its subwords are summed once, when the model is read; and the
rows of a text are found first and added after, eight at a time, so that their cache misses overlap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from curation.measure.fasttext_model import FastTextModel

END_OF_TEXT = b"</s>"
LABEL_MARK = b"__label__"
ROUNDING = 1e-5  # what the library adds to a probability before its logarithm
HASH_BASIS, KEY_BASIS = np.uint32(2166136261), np.uint64(0xCBF29CE484222325)  # of FNV-1a in 32 and 64 bits
_SPACE = np.isin(np.arange(256), [0, 9, 10, 11, 12, 13, 32]).astype(np.uint8)
END_MARK = np.frombuffer(END_OF_TEXT, np.uint8)
_MARKS = (np.frombuffer(LABEL_MARK, np.uint8), END_MARK)


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
    count = len(starts)
    labels, scores, asked = np.empty(count, np.int32), np.empty(count, np.float32), np.empty(count, np.float32)
    entries = (model.slot_keys, model.slot_entries, model.words)
    ngrams = (model.bucket_rows, model.bucket_count, model.lengths[0], model.lengths[1], model.word_ngrams)
    rows = (model.word_sums, model.word_counts, model.buckets)
    tree = (model.output, model.parents, model.right, len(model.labels))
    _predict(data, starts, ends, entries, ngrams, rows, tree, _MARKS, _SPACE, label, labels, scores, asked)
    return labels, scores, asked


@njit(nogil=True, cache=True)
def spelled(data, place, ends):
    """The bytes of the dictionary's entries without what lies between them."""
    out = np.empty(ends[-1], np.uint8)
    for entry in range(len(ends) - 1):
        for at in range(ends[entry], ends[entry + 1]):
            out[at] = data[place]
            place += 1
        place += 10
    return out


@njit(nogil=True)
def _hash_on(hashed, byte):
    """fastText's FNV-1a takes a byte as signed."""
    return np.uint32((hashed ^ np.uint32(np.int8(byte))) * np.uint32(16777619))


@njit(nogil=True)
def _key_on(key, byte):
    """A second hash, of 64 bits, that tells entries apart."""
    return (key ^ np.uint64(byte)) * np.uint64(0x100000001B3)


@njit(nogil=True)
def _hashes_of(data, start, end):
    hashed, key = HASH_BASIS, KEY_BASIS
    for at in range(start, end):
        hashed, key = _hash_on(hashed, data[at]), _key_on(key, data[at])
    return hashed, key


@njit(nogil=True, cache=True)
def fill_slots(spelling, ends, slot_keys, slot_entries):
    """Put the entries into an open-addressing table: by their hash, told apart by their key.

    `slot_entries` (int32) is -1 where free; its length is a power of two above the number of entries.
    """
    mask = len(slot_entries) - 1
    for entry in range(len(ends) - 1):
        hashed, key = _hashes_of(spelling, ends[entry], ends[entry + 1])
        slot = np.int64(hashed) & mask
        while slot_entries[slot] >= 0:
            slot = (slot + 1) & mask
        slot_keys[slot], slot_entries[slot] = key, entry


@njit(nogil=True)
def _find(hashed, key, slot_keys, slot_entries):
    """The entry of these hashes, -1 if there is none."""
    mask = len(slot_entries) - 1
    slot = np.int64(hashed) & mask
    while slot_entries[slot] >= 0 and slot_keys[slot] != key:
        slot = (slot + 1) & mask
    return np.int64(slot_entries[slot])


@njit(nogil=True)
def _bucket_row(bucket, bucket_rows):
    return np.int64(bucket_rows[bucket]) if len(bucket_rows) else np.int64(bucket)


@njit(nogil=True)
def _subword_rows(data, start, end, bucket_rows, buckets, shortest, longest, found, known):
    """Append the rows of all character n-grams of "<" + data[start:end] + ">" to `found`; returns how many.

    `found` must have room for (end - start + 2) * longest more.
    """
    size = end - start + 2
    for first in range(size):
        byte = data[start + first - 1] if 0 < first < size - 1 else np.uint8(0x3C if first == 0 else 0x3E)
        if byte & 0xC0 == 0x80:
            continue
        hashed, at, chars = HASH_BASIS, first, 1
        while at < size and chars <= longest:
            hashed = _hash_on(hashed, byte)
            at += 1
            byte = data[start + at - 1] if at < size - 1 else np.uint8(0x3E)
            while at < size - 1 and byte & 0xC0 == 0x80:
                hashed = _hash_on(hashed, byte)
                at += 1
                byte = data[start + at - 1] if at < size - 1 else np.uint8(0x3E)
            if chars >= shortest and not (chars == 1 and (first == 0 or at == size)):
                row = _bucket_row(hashed % np.uint32(buckets), bucket_rows)
                if row >= 0:
                    found[known] = row
                    known += 1
            chars += 1
    return known


@njit(nogil=True, cache=True)
def sum_word_rows(spelling, ends, hashed_rows, bucket_rows, buckets, lengths, end_mark, sums, sizes):
    """Add the rows of each word's subwords to its own in `sums`, counting them in `sizes`. Not for </s>."""
    found = np.empty(16, np.int64)
    for word in range(len(sums)):
        start, end = ends[word], ends[word + 1]
        if end - start == len(end_mark) and _is(spelling, start, end, end_mark):
            continue
        need = (end - start + 2) * lengths[1]
        if need > len(found):
            found = np.empty(2 * need, np.int64)
        known = _subword_rows(spelling, start, end, bucket_rows, buckets, lengths[0], lengths[1], found, 0)
        for n in range(known):
            for column in range(sums.shape[1]):
                sums[word, column] += hashed_rows[found[n], column]
        sizes[word] += known


@njit(nogil=True)
def _add_rows(hidden, rows, found, known):
    """Add the rows `found` to `hidden`: eight at a time, so that their cache misses overlap."""
    width, n = np.uint64(len(hidden)), np.int64(0)
    while n + 8 <= known:
        a, b, c, d = rows[found[n]], rows[found[n + 1]], rows[found[n + 2]], rows[found[n + 3]]
        e, f, g, h = rows[found[n + 4]], rows[found[n + 5]], rows[found[n + 6]], rows[found[n + 7]]
        for at in range(width):
            first, second = (a[at] + b[at]) + (c[at] + d[at]), (e[at] + f[at]) + (g[at] + h[at])
            hidden[at] += first + second
        n += 8
    while n < known:
        row = rows[found[n]]
        for at in range(width):
            hidden[at] += row[at]
        n += 1


@njit(nogil=True)
def _leaf_scores(hidden, output, parents, right, labels, scores):
    """Hierarchical softmax: log-probabilities go down from the root, whose number is the highest."""
    for node in range(len(parents) - 1, -1, -1):
        above = parents[node]
        if above < 0:
            scores[node] = 0
            continue
        margin = np.float32(0)
        for column in range(len(hidden)):
            margin += output[above - labels, column] * hidden[column]
        chance = np.float32(1.0 / (1.0 + np.exp(-margin)))
        chance = chance if right[node] else np.float32(1.0) - chance
        scores[node] = scores[above] + np.float32(np.log(chance + ROUNDING))
    for node in range(labels):
        scores[node] = np.exp(scores[node])


@njit(nogil=True)
def _softmax(hidden, output, labels, scores):
    for label in range(labels):
        scores[label] = 0
    for column in range(len(hidden)):
        for label in range(labels):
            scores[label] += output[column, label] * hidden[column]
    highest, total = scores[0], np.float32(0)
    for label in range(labels):
        highest = max(highest, scores[label])
    for label in range(labels):
        scores[label] = np.exp(scores[label] - highest)
        total += scores[label]
    for label in range(labels):
        scores[label] = scores[label] / total + np.float32(ROUNDING)


@njit(nogil=True)
def _is(data, start, end, mark):
    """Whether data[start:end] begins with `mark`."""
    if end - start < len(mark):
        return False
    same = True
    for at in range(len(mark)):
        same &= data[start + at] == mark[at]
    return same


@njit(nogil=True)
def _scan_words(data, start, end, space, hashes, keys, stops):
    """Hash, key and end of each word of data[start:end]; returns how many there are.

    Without branches but the loop's: a processor cannot guess where words end. What is stored at each byte stands
    only if the byte ends a word. (Unsigned places: numba tests signed ones for being negative.)
    """
    known, inside = np.uint64(0), np.uint64(0)
    hashed, key = HASH_BASIS, KEY_BASIS
    for at in range(np.uint64(start), np.uint64(end)):
        byte = data[at]
        blank = np.uint64(space[byte])
        hashes[known], keys[known], stops[known] = hashed, key, at
        known += blank & inside
        further, further_key = _hash_on(hashed, byte), _key_on(key, byte)
        hashed = HASH_BASIS if blank else further
        key = KEY_BASIS if blank else further_key
        inside = np.uint64(1) - blank
    hashes[known], keys[known], stops[known] = hashed, key, end
    return np.int64(known + inside)


@njit(nogil=True)
def _start_of(data, first, stop, space):
    """Where the word that ends at `stop` begins, at or after `first`."""
    while stop > first and not space[data[stop - 1]]:
        stop -= 1
    return stop


@njit(nogil=True)
def _rows_of_words(data, first, space, known, entries, ngrams, marks, scanned, words, hashed_rows):
    """Rows of the `known` words scanned and of their n-grams into the last arrays: (words, hashed rows) found.

    The library ends a text with the token </s>, also where it stands in the text.
    """
    slot_keys, slot_entries, word_count = entries
    bucket_rows, buckets, shortest, longest, word_ngrams = ngrams
    hashes, keys, stops = scanned
    label_mark, end_mark = marks
    end_hash, end_key = _hashes_of(end_mark, 0, len(end_mark))
    hashes[known], keys[known] = end_hash, end_key
    found_words, found_rows, read = 0, 0, 0
    for n in range(known + 1):
        hashed, key = hashes[n], keys[n]
        entry = _find(hashed, key, slot_keys, slot_entries)
        if 0 <= entry < word_count:
            words[found_words] = entry
            found_words += 1
        elif entry >= 0:
            continue  # a label
        elif key != end_key:
            start = _start_of(data, first, stops[n], space)
            if _is(data, start, stops[n], label_mark):
                continue
            if longest > 0 and buckets > 0:
                found_rows = _subword_rows(
                    data, start, stops[n], bucket_rows, buckets, shortest, longest, hashed_rows, found_rows
                )
        hashes[read] = hashed
        read += 1
        if key == end_key:
            break
    if word_ngrams > 1 and buckets > 0:
        found_rows = _word_ngram_rows(hashes, read, word_ngrams, bucket_rows, buckets, hashed_rows, found_rows)
    return found_words, found_rows


@njit(nogil=True)
def _word_ngram_rows(hashes, words, longest, bucket_rows, buckets, found, known):
    """Append the rows of the n-grams of 2 to `longest` words to `found`; returns how many it has then."""
    inverse = 1.0 / buckets
    inverse = 1.0 / buckets
    for first in range(words):
        hashed = np.uint64(np.int64(np.int32(hashes[first])))
        for second in range(first + 1, min(words, first + longest)):
            hashed = hashed * np.uint64(116049371) + np.uint64(np.int64(np.int32(hashes[second])))
            row = _bucket_row(_remainder(hashed, np.uint64(buckets), inverse), bucket_rows)
            found[known] = row
            known += row >= 0
    return known


@njit(nogil=True)
def _remainder(number, divisor, inverse):
    """number % divisor, without the slow division: the quotient by `inverse` is off by one or two at most."""
    if divisor < 4096:
        return np.int64(number % divisor)
    rest = np.int64(number - np.uint64(np.float64(number) * inverse) * divisor)
    while rest < 0:
        rest += np.int64(divisor)
    while rest >= np.int64(divisor):
        rest -= np.int64(divisor)
    return rest


@njit(nogil=True)
def _scan_arrays(room):
    return np.empty(room, np.uint32), np.empty(room, np.uint64), np.empty(room, np.int64)


@njit(nogil=True, cache=True)
def _predict(
    data, starts, ends, entries, ngrams, rows, tree, marks, space, asked, out_labels, out_scores, out_asked
):
    word_sums, word_counts, buckets = rows
    output, parents, right, labels = tree
    hidden = np.empty(word_sums.shape[1], np.float32)
    scores = np.empty(max(labels, len(parents)), np.float32)
    words, hashed_rows, scanned = np.empty(64, np.int64), np.empty(64, np.int64), _scan_arrays(64)
    for text in range(len(starts)):
        size = ends[text] - starts[text]
        room = size // 2 + 3  # words, with the end-of-text token
        if room > len(words):
            words, scanned = np.empty(2 * room, np.int64), _scan_arrays(2 * room)
        room = room * (ngrams[4] - 1) + (size + 2 * room) * ngrams[3]
        if room > len(hashed_rows):
            hashed_rows = np.empty(2 * room, np.int64)
        known = _scan_words(data, starts[text], ends[text], space, *scanned)
        found_words, found_rows = _rows_of_words(
            data, starts[text], space, known, entries, ngrams, marks, scanned, words, hashed_rows
        )
        hidden[:] = 0
        added = found_rows
        for n in range(found_words):
            added += word_counts[words[n]]
        out_labels[text], out_scores[text], out_asked[text] = -1, 0, 0
        if not added:
            continue
        _add_rows(hidden, word_sums, words, found_words)
        _add_rows(hidden, buckets, hashed_rows, found_rows)
        hidden *= np.float32(1) / np.float32(added)
        if len(parents):
            _leaf_scores(hidden, output, parents, right, labels, scores)
        else:
            _softmax(hidden, output, labels, scores)
        best = 0
        for label in range(1, labels):
            if scores[label] > scores[best]:
                best = label
        out_labels[text], out_scores[text] = best, scores[best]
        if asked >= 0:
            out_asked[text] = scores[asked]
