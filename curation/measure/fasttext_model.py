"""Inference of a quantised supervised fastText model (.ftz) in a compiled kernel, for text in an Arrow buffer.

The fastText library holds the interpreter lock while it predicts, so that threads wait for each other; this does
not, and needs no string objects. It covers what lid.176 is: subwords, no word n-grams, a quantised input matrix
pruned to part of its rows, hierarchical softmax (Joulin et al. 2016, "FastText.zip"). The tests hold it equal to
the library. The file format is that of fastText's version 12.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

from curation.config import ConfigError
from curation.keys import mix64
from curation.measure.hashing import HASH_START, extend_hash, number_of, table_size

MAGIC, VERSION = 793712314, 12
HIERARCHICAL_SOFTMAX, SUPERVISED = 1, 3  # of fastText's enumerations loss_name and model_name
CENTROIDS = 256  # of a product quantiser
END_OF_TEXT = b"</s>"
LABEL = b"__label__"


@dataclass(frozen=True)
class FastTextModel:
    """A model as arrays. `rows` words come first, then the subwords that pruning kept; `labels` as in the file."""

    labels: list[str]  # without their mark, most frequent first
    rows: np.ndarray  # float32 (words + kept subwords, dimension)
    words: int
    word_keys: np.ndarray  # uint64 (words,): running hash of the word's bytes
    word_slots: np.ndarray  # int32, open addressing: see `hashing.number_of`
    subword_rows: np.ndarray  # int32 (buckets,): row of a subword's bucket, -1 where pruned
    lengths: tuple[int, int]  # shortest and longest subword, characters
    output: np.ndarray  # float32 (labels, dimension): the tree's inner nodes
    parents: np.ndarray  # int32 (2 * labels - 1,): the tree; leaves are the labels, -1 above the root
    right: np.ndarray  # bool (2 * labels - 1,): whether a node is its parent's right child


def read_model(path: Path) -> FastTextModel | None:
    """Read a .ftz file; None for a fastText model of another kind. Raises ConfigError for another kind of file."""
    data = path.read_bytes()
    if len(data) < 64 or struct.unpack_from("<2i", data) != (MAGIC, VERSION):
        raise ConfigError(f"{path}: not a fastText model of format {VERSION}; expected a file such as lid.176.ftz")
    fields = struct.unpack_from("<12i", data, 8)
    dimension, ngrams, loss, kind, buckets, shortest, longest = (fields[n] for n in (0, 5, 6, 7, 8, 9, 10))
    entries, words, _, _, kept = struct.unpack_from("<3i2q", data, 64)
    place = 92
    names, counts = [], []
    for _ in range(entries):
        end = data.index(0, place)
        names.append(data[place:end])
        counts.append(struct.unpack_from("<q", data, end + 1)[0])
        place = end + 10  # the terminator, the count and a byte for the kind of entry
    pruned = np.frombuffer(data, "<i4", 2 * max(kept, 0), place).reshape(-1, 2)
    place += pruned.nbytes
    known = (loss, kind, ngrams, dimension % 2) == (HIERARCHICAL_SOFTMAX, SUPERVISED, 1, 0)
    if not known or kept < 1 or not data[place]:
        return None
    rows, place = _quantised_rows(data, place + 1)
    count, _ = struct.unpack_from("<2q", data, place + 1)
    output = np.frombuffer(data, "<f4", count * dimension, place + 17).reshape(count, dimension)
    subword_rows = np.full(buckets, -1, np.int32)
    subword_rows[pruned[:, 0]] = words + pruned[:, 1]
    keys, slots = _word_table(names[:words])
    parents, right = _tree(counts[words:])
    labels = [name.removeprefix(LABEL).decode() for name in names[words:]]
    lengths = (shortest, longest)
    return FastTextModel(labels, rows, words, keys, slots, subword_rows, lengths, output, parents, right)


def _quantised_rows(data: bytes, place: int) -> tuple[np.ndarray, int]:
    """The dense float32 rows of a quantised matrix and the place after it: norm times centroids."""
    with_norm = data[place]
    rows, columns, size = struct.unpack_from("<2qi", data, place + 1)
    codes = np.frombuffer(data, np.uint8, size, place + 21).reshape(rows, -1)
    (_, parts, width, last), centroids, place = _quantiser(data, place + 21 + size)
    assert last == width, "fastText makes a narrower last part only for a dimension that is odd"
    dense = centroids.reshape(parts, CENTROIDS, width)[np.arange(parts), codes].reshape(rows, columns)
    if with_norm:
        norms = np.frombuffer(data, np.uint8, rows, place)
        _, centroids, place = _quantiser(data, place + rows)
        dense = centroids[norms][:, None] * dense
    return np.ascontiguousarray(dense), place


def _quantiser(data: bytes, place: int) -> tuple[tuple[int, ...], np.ndarray, int]:
    head = struct.unpack_from("<4i", data, place)
    centroids = np.frombuffer(data, "<f4", head[0] * CENTROIDS, place + 16)
    return head, centroids, place + 16 + centroids.nbytes


def _word_table(words: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    joined = np.frombuffer(b"".join(words), np.uint8)
    ends = np.cumsum([len(word) for word in words])
    keys, slots = np.empty(len(words) + 1, np.uint64), np.full(table_size(len(words) + 1), -1, np.int32)
    _fill_words(joined, ends, keys, slots)
    return keys, slots


def _tree(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """fastText's Huffman tree over labels that come in falling order of their counts."""
    labels = len(counts)
    weights = [*counts, *[10**15] * (labels - 1)]
    parents, right = np.full(2 * labels - 1, -1, np.int32), np.zeros(2 * labels - 1, np.bool_)
    leaf, node = labels - 1, labels
    for above in range(labels, 2 * labels - 1):
        total = 0
        for child in range(2):
            if leaf >= 0 and weights[leaf] < weights[node]:
                lightest, leaf = leaf, leaf - 1
            else:
                lightest, node = node, node + 1
            total += weights[lightest]
            parents[lightest], right[lightest] = above, child == 1
        weights[above] = total
    return parents, right


def predict(
    model: FastTextModel, data: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The most likely label of each text data[start:end] (uint8, UTF-8): (int32 places in labels, float32 scores).

    White space of ASCII, newlines and NUL divide words, as in fastText. A text without words that the model
    knows anything of still has a label: that of the end-of-text token. -1 and 0 where there is not even that.
    """
    labels, scores = np.empty(len(starts), np.int32), np.empty(len(starts), np.float32)
    words = (model.word_keys, model.word_slots, model.subword_rows, *model.lengths)
    tree = (model.output, model.parents, model.right)
    marks = (np.frombuffer(LABEL, np.uint8), np.frombuffer(END_OF_TEXT, np.uint8))
    _predict(data, starts, ends, words, model.rows, tree, marks, labels, scores)
    return labels, scores


@njit(nogil=True, cache=True)
def _fill_words(joined, ends, keys, slots):
    at = 0
    for word in range(len(ends)):
        hashed = HASH_START
        while at < ends[word]:
            hashed = extend_hash(hashed, joined[at])
            at += 1
        number_of(hashed, keys, word, slots, len(slots))
    keys[len(ends)] = 0


@njit(nogil=True)
def _add_row(hidden, rows, row):
    for column in range(len(hidden)):
        hidden[column] += rows[row, column]
    return 1


@njit(nogil=True)
def _add_subwords(word, length, subword_rows, shortest, longest, rows, hidden):
    """Add the rows of all character n-grams of `word` (bytes, with its < and >); returns how many there are."""
    added = 0
    for first in range(length):
        if word[first] & 0xC0 == 0x80:
            continue
        hashed, at, chars = np.uint32(2166136261), first, 1
        while at < length and chars <= longest:
            while True:
                signed = np.uint32(np.int8(word[at]))  # fastText hashes signed bytes
                hashed = np.uint32((hashed ^ signed) * np.uint32(16777619))
                at += 1
                if at == length or word[at] & 0xC0 != 0x80:
                    break
            if chars >= shortest and not (chars == 1 and (first == 0 or at == length)):
                row = subword_rows[hashed % np.uint32(len(subword_rows))]
                if row >= 0:
                    added += _add_row(hidden, rows, row)
            chars += 1
    return added


@njit(nogil=True)
def _best_label(hidden, output, parents, right, scores):
    """The likeliest leaf: log-probabilities go down from the root, whose number is the highest."""
    labels = len(output)
    best = labels - 1  # the first leaf to be reached
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
        scores[node] = scores[above] + np.float32(np.log(chance + 1e-5))
        if node < labels and scores[node] > scores[best]:
            best = node
    return best


@njit(nogil=True)
def _find_word(word, length, keys, slots):
    """The number of the word whose bytes lie between word[0] and word[length - 1]; -1 if the model has it not."""
    hashed = HASH_START
    for at in range(1, length - 1):
        hashed = extend_hash(hashed, word[at])
    place = mix64(hashed) & np.uint64(len(slots) - 1)
    while slots[place] >= 0:
        if keys[slots[place]] == hashed:
            return np.int64(slots[place])
        place = (place + np.uint64(1)) & np.uint64(len(slots) - 1)
    return np.int64(-1)


@njit(nogil=True)
def _starts_with(word, length, prefix):
    if length - 2 < len(prefix):
        return False
    same = True
    for at in range(len(prefix)):
        same &= word[at + 1] == prefix[at]
    return same


@njit(nogil=True, cache=True)
def _predict(data, starts, ends, words, rows, tree, marks, out_labels, out_scores):
    keys, slots, subword_rows, shortest, longest = words
    output, parents, right = tree
    label_mark, end_mark = marks
    hidden, scores = np.empty(rows.shape[1], np.float32), np.empty(len(parents), np.float32)
    word = np.empty(64, np.uint8)
    for text in range(len(starts)):
        hidden[:] = 0
        added, at, end = 0, starts[text], ends[text]
        if end - at + 2 > len(word):
            word = np.empty(end - at + 2, np.uint8)
        while at < end:
            length = 1
            word[0] = 0x3C
            while at < end and not (data[at] == 0x20 or data[at] == 0 or 0x09 <= data[at] <= 0x0D):
                word[length] = data[at]
                length += 1
                at += 1
            at += 1
            if length == 1 or _starts_with(word, length + 1, label_mark):
                continue
            word[length] = 0x3E
            length += 1
            if length - 2 == len(end_mark) and _starts_with(word, length, end_mark):
                break
            number = _find_word(word, length, keys, slots)
            if number >= 0:
                added += _add_row(hidden, rows, number)
            added += _add_subwords(word, length, subword_rows, shortest, longest, rows, hidden)
        word[1 : len(end_mark) + 1] = end_mark
        number = _find_word(word, len(end_mark) + 2, keys, slots)
        if number >= 0:
            added += _add_row(hidden, rows, number)
        out_labels[text], out_scores[text] = -1, 0
        if added:
            hidden *= np.float32(1) / np.float32(added)
            best = _best_label(hidden, output, parents, right, scores)
            out_labels[text], out_scores[text] = best, np.exp(scores[best])
