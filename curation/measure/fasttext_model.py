"""Reading a supervised fastText model (.bin, .ftz) into arrays that a compiled kernel predicts with.

The format is that of fastText's versions 11 and 12 (Bojanowski et al. 2017; Joulin et al. 2016, "FastText.zip"): a
header, the dictionary, the input matrix (a row a word, then a row a bucket of n-grams), the output matrix. Either
matrix may be product-quantised; quantised ones are made dense here. `fasttext_kernel` predicts.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from curation.compiled import njit
from curation.config import ConfigError
from curation.measure.fasttext_scores import SMALL_TREE
from curation.measure.fasttext_words import fill_slots
from curation.measure.hashing import table_size
from curation.measure.row_sums import padded

MAGIC, VERSIONS = 793712314, (11, 12)
HIERARCHICAL_SOFTMAX, SOFTMAX = 1, 3  # of fastText's loss_name
SUPERVISED = 3  # of its model_name
CENTROIDS = 256  # of a product quantiser
LABEL = b"__label__"
HEADER, DICTIONARY = 64, 92  # bytes before the dictionary's head and before its entries


@dataclass(frozen=True)
class FastTextModel:
    """A model as arrays."""

    labels: list[str]  # without the mark __label__
    slots: np.ndarray  # uint64 (n, 2): words, then labels, as in the file; see fasttext_words.fill_slots
    words: np.ndarray  # float32 (words, width, padded by row_sums)
    buckets: np.ndarray  # float32 (rows, the same): of n-grams of characters and of words
    ranks: np.ndarray  # uint64 (n, 2): which buckets a pruned model has rows for; see fasttext_words.bucket_row
    bucket_count: int  # 0 where nothing hashed is left
    lengths: tuple[int, int]  # shortest and longest subword, characters; (0, 0) without subwords
    word_ngrams: int
    # float32 (width, labels), or (0, labels) where rows are projected; of a tree of up to SMALL_TREE inner nodes
    # (width, inner nodes), of a larger one (inner nodes, width)
    output: np.ndarray
    parents: np.ndarray  # int32 (2 * labels - 1,): the tree; leaves are the labels, -1 above the root. Else empty
    right: np.ndarray  # bool (2 * labels - 1,): whether a node is its parent's right child
    children: np.ndarray  # int32 (inner nodes, 2): left and right child
    kept: threading.local = field(default_factory=threading.local)  # what the kernel keeps, by thread


def read_model(path: Path) -> FastTextModel | None:
    """Read a model; None for a kind that the kernel does not cover and the library must run.

    Not covered: the losses `ns` and `ova`, whose sigmoid the library takes from a table with steps of up to 0.008,
    so that rounding alone moves scores by more than 1e-4; and unsupervised models. Raises ConfigError for a file
    of another kind.
    """
    data = np.memmap(path, np.uint8, "r") if Path(path).stat().st_size >= DICTIONARY else np.empty(0, np.uint8)
    magic, version = struct.unpack_from("<2i", data) if len(data) else (0, 0)
    if magic != MAGIC or version not in VERSIONS:
        raise ConfigError(f"{path}: not a fastText model of format 11 or 12; expected a file such as lid.176.ftz")
    fields = struct.unpack_from("<12i", data, 8)
    ngrams, loss, kind, buckets, shortest, longest = (fields[n] for n in (5, 6, 7, 8, 9, 10))
    if kind != SUPERVISED or loss not in (HIERARCHICAL_SOFTMAX, SOFTMAX):
        return None
    if version == 11:  # supervised models had no subwords then
        longest = 0
    entries, words, _, _, kept = struct.unpack_from("<3i2q", data, HEADER)
    spelling, ends, counts, place = _entries(data, DICTIONARY, entries)
    pruned = np.frombuffer(data, "<i4", 2 * max(kept, 0), place).reshape(-1, 2)
    place += pruned.nbytes
    rows, place = _matrix(data, place)
    output, _ = _matrix(data, place)
    hashed, ranks = rows[words:], np.empty((0, 2), np.uint64)
    if kept > 0:
        pruned = pruned[np.argsort(pruned[:, 0])]
        hashed, ranks = hashed[pruned[:, 1]], _ranks(pruned[:, 0], buckets)
    slots = np.zeros((table_size(entries + 1), 2), np.uint64)
    fill_slots(spelling, ends, slots)
    names = [bytes(spelling[ends[n] : ends[n + 1]]) for n in range(words, entries)]
    labels = [name.removeprefix(LABEL).decode("utf-8", "replace") for name in names]
    rows, tree = rows[:words], _tree(counts[words:].tolist() if loss == HIERARCHICAL_SOFTMAX else [])
    if loss == SOFTMAX:
        output = np.ascontiguousarray(output.T)
        if len(labels) < len(output):
            rows, hashed = _projected(rows, output), _projected(hashed, output)
            output = output[:0]
    elif 0 < len(labels) - 1 <= SMALL_TREE:
        output = np.ascontiguousarray(output[: len(labels) - 1].T)
    count = 0 if kept == 0 else buckets
    lengths = (shortest, longest) if longest > 0 and count else (0, 0)
    hashes = (padded(hashed), ranks, count, lengths, ngrams if count else 1)
    return FastTextModel(labels, slots, padded(rows), *hashes, output, *tree)


def _ranks(kept: np.ndarray, buckets: int) -> np.ndarray:
    """A bit for each bucket that is kept (rising), and how many are before each 64 of them: uint64 (n, 2)."""
    ranks = np.zeros((buckets // 64 + 1, 2), np.uint64)
    np.bitwise_or.at(ranks[:, 0], kept // 64, np.uint64(1) << (kept % 64).astype(np.uint64))
    ranks[1:, 1] = np.cumsum(np.bitwise_count(ranks[:-1, 0]), dtype=np.uint64)
    return ranks


def _entries(data: np.ndarray, place: int, entries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The dictionary: bytes of all entries, their ends, their counts, and the place after it."""
    ends, counts = np.zeros(entries + 1, np.int64), np.zeros(entries, np.int64)
    after = _scan_entries(data, place, ends, counts)
    if after < 0:
        raise ConfigError("the fastText model ends inside its dictionary; fetch the file again")
    return spelled(data, place, ends), ends, counts, after


def _matrix(data: np.ndarray, place: int) -> tuple[np.ndarray, int]:
    """The float32 rows of a matrix, made dense if it is quantised, and the place after it."""
    if data[place]:
        return _quantised_rows(data, place + 1)
    rows, columns = struct.unpack_from("<2q", data, place + 1)
    dense = np.frombuffer(data, "<f4", rows * columns, place + 17).reshape(rows, columns)
    return dense, place + 17 + dense.nbytes


def _quantised_rows(data: np.ndarray, place: int) -> tuple[np.ndarray, int]:
    """The dense float32 rows of a quantised matrix and the place after it: norm times centroids."""
    with_norm = data[place]
    rows, columns, size = struct.unpack_from("<2qi", data, place + 1)
    codes = np.frombuffer(data, np.uint8, size, place + 21).reshape(rows, -1)
    (_, parts, width, last), centroids, place = _quantiser(data, place + 21 + size)
    dense = np.empty((rows, columns), np.float32)
    for part in range(parts):  # the last part is narrower where the width does not divide the dimension
        size = last if part == parts - 1 else width
        first = part * CENTROIDS * width
        table = centroids[first : first + CENTROIDS * size].reshape(CENTROIDS, size)
        dense[:, part * width : part * width + size] = table[codes[:, part]]
    if with_norm:
        norms = np.frombuffer(data, np.uint8, rows, place)
        _, centroids, place = _quantiser(data, place + rows)
        dense *= centroids[norms][:, None]
    return dense, place


def _quantiser(data: np.ndarray, place: int) -> tuple[tuple[int, ...], np.ndarray, int]:
    head = struct.unpack_from("<4i", data, place)
    centroids = np.frombuffer(data, "<f4", head[0] * CENTROIDS, place + 16)
    return head, centroids, place + 16 + centroids.nbytes


def _projected(rows: np.ndarray, output: np.ndarray) -> np.ndarray:
    """Each row's share of the logits: a mean of these is the logits of the mean, and they take less room."""
    shares = np.empty((len(rows), output.shape[1]), np.float32)
    _project(rows, output, shares)
    return shares


def _tree(counts: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """fastText's Huffman tree over labels that come in falling order of their counts: parents, right, children."""
    labels = len(counts)
    nodes, inner = max(0, 2 * labels - 1), max(0, labels - 1)
    weights = [*counts, *[10**15] * inner]
    parents, right = np.full(nodes, -1, np.int32), np.zeros(nodes, np.bool_)
    children = np.zeros((inner, 2), np.int32)
    leaf, node = labels - 1, labels
    for above in range(labels, nodes):
        total = 0
        for child in range(2):
            if leaf >= 0 and weights[leaf] < weights[node]:
                lightest, leaf = leaf, leaf - 1
            else:
                lightest, node = node, node + 1
            total += weights[lightest]
            parents[lightest], right[lightest] = above, child == 1
            children[above - labels, child] = lightest
        weights[above] = total
    return parents, right, children


@njit(nogil=True, cache=True)
def _project(rows, output, shares):
    for row in range(len(rows)):
        for label in range(output.shape[1]):
            share = 0.0
            for column in range(len(output)):
                share += np.float64(rows[row, column]) * output[column, label]
            shares[row, label] = share


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


@njit(nogil=True, cache=True)
def _scan_entries(data, place, ends, counts):
    """Sizes (summed) and counts of the entries that begin at `place`; returns the place after them, -1 if cut."""
    for entry in range(len(counts)):
        start = place
        while place < len(data) and data[place] != 0:
            place += 1
        if place + 10 > len(data):
            return np.int64(-1)
        ends[entry + 1] = ends[entry] + place - start
        count = np.uint64(0)
        for byte in range(8):
            count |= np.uint64(data[place + 1 + byte]) << np.uint64(8 * byte)
        counts[entry] = np.int64(count)
        place += 10  # the terminator, the count, and a byte for the kind of entry
    return np.int64(place)
