"""The items of evaluation sets as arrays that kernels search: hashes of n-grams, who has them, what they weigh.

Words and hashes of n-grams are those of `curation.dedup.shingles`: two n-grams are taken to be equal if their 64
bits are. All of the index is in memory: about 30 bytes an n-gram for method "decon", 20 for "ngram_share".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import pyarrow as pa

from curation.compiled import njit
from curation.decontaminate.benchmarks import Item
from curation.decontaminate.settings import Decon, NgramShare
from curation.dedup.bands import distinct
from curation.dedup.minhash import string_buffers
from curation.dedup.shingles import TABLES, hash_words, roll
from curation.files import atomic

NO_ONE = -1  # in a table's slot
FILTER_BITS = 16  # of the filter for each n-gram
WEIGHTS = {  # of question, answer, passage, by whether an item has an answer and a passage (Olmo 3 report, A.5)
    (True, True): (0.7, 0.2, 0.1),
    (True, False): (0.75, 0.25, 0.0),
    (False, True): (0.85, 0.0, 0.15),
    (False, False): (1.0, 0.0, 0.0),
}


class Table(NamedTuple):
    """A hash table from n-gram hashes to their owners.

    `filter` holds a bit for each value of the first bits of a hash; `keys` and `grams` are slots (open addressing,
    the hash's last bits first); owners of gram g are owners[starts[g]:starts[g + 1]], rising.
    """

    filter: np.ndarray  # uint64, a power of two of words
    keys: np.ndarray  # uint64, a power of two of slots
    grams: np.ndarray  # int32, NO_ONE in a free slot
    starts: np.ndarray  # int64 (grams + 1,)
    owners: np.ndarray  # int32


class Sets(NamedTuple):
    """Of each item a set of n-grams: hashes[starts[i]:starts[i + 1]], rising, each with its weight."""

    starts: np.ndarray  # int64 (items + 1,)
    hashes: np.ndarray  # uint64
    weights: np.ndarray  # float64
    totals: np.ndarray  # float64 (items,)


class DeconIndex(NamedTuple):
    """Everything that method "decon" knows of the items."""

    table: Table  # n-grams of the questions
    question: Sets
    answer: Sets  # empty for short answers
    passage: Sets
    short_starts: np.ndarray  # int64 (items + 1,): where the words of each short answer are
    short_words: np.ndarray  # uint64
    question_words: np.ndarray  # int64 (items,)
    answer_words: np.ndarray  # int64 (items,)
    weights: np.ndarray  # float64 (items, 3): question, answer, passage; they sum to 1
    thresholds: np.ndarray  # float64 (items,)


class ShareIndex(NamedTuple):
    """Everything that method "ngram_share" knows. A target is the prompt or the answer of an item."""

    table: Table
    totals: np.ndarray  # int64 (targets,): distinct n-grams compared
    items: np.ndarray  # int64 (targets,)
    answers: np.ndarray  # bool (targets,): the target is the answer


def save_index(path: Path, index: tuple) -> None:
    """Write the arrays of an index, complete or absent."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **dict(_arrays(index, "")))


def load_index(path: Path, kind: type) -> DeconIndex | ShareIndex:
    """The index that `save_index` wrote, of one of the two kinds."""
    with np.load(path, allow_pickle=False) as arrays:
        return _index(kind, arrays, "")


def _arrays(index: tuple, above: str) -> Iterator[tuple[str, np.ndarray]]:
    for name, part in index._asdict().items():
        if isinstance(part, tuple):
            yield from _arrays(part, f"{above}{name}.")
        else:
            yield above + name, part


def _index(kind: type, arrays: Mapping[str, np.ndarray], above: str) -> Any:
    parts = get_type_hints(kind).items()
    return kind(
        *(
            arrays[above + name] if of is np.ndarray else _index(of, arrays, f"{above}{name}.")
            for name, of in parts
        )
    )


def memory(index: tuple) -> int:
    """Bytes of all arrays of an index."""
    return sum(memory(part) if isinstance(part, tuple) else part.nbytes for part in index)


def word_hashes(texts: list[str]) -> list[np.ndarray]:
    """The hash of each word of each text, uint64."""
    data, offsets = string_buffers(pa.array(texts, pa.large_string()))
    return _parts(*_words(data, offsets, TABLES))


def ngrams(texts: list[np.ndarray], ngram: int, telling: bool = False) -> list[np.ndarray]:
    """Of the words of each text the distinct hashes of its n-grams, rising; none if it has fewer words.

    telling: those alone of which no more than half of the words are single ASCII letters or digits.
    """
    starts, words = _rows(texts, np.uint64)
    single = np.isin(words, _single_characters()) if telling else np.zeros(len(words), np.bool_)
    return _parts(*_ngrams(words, starts, ngram, np.concatenate([[0], np.cumsum(single)])))


def decon_index(items: list[Item], settings: Decon) -> tuple[DeconIndex, list[Item], dict[str, Counter]]:
    """The index, the items in it, and for each benchmark how many items were left out, by reason."""
    parts, kept, left_out = _usable(items, settings.min_words, settings.min_unique_words, settings.ngram)
    questions, answers, passages = (list(part) for part in zip(*parts, strict=True)) if parts else ([], [], [])
    short = [len(words) <= settings.short_answer for words in answers]
    question = _sets(ngrams(questions, settings.ngram))
    long_answers = [words[:0] if brief else words for words, brief in zip(answers, short, strict=True)]
    short_answers = [words if brief else words[:0] for words, brief in zip(answers, short, strict=True)]
    passage = _sets(ngrams(passages, settings.passage_ngram))
    # A passage shorter than its n-gram cannot be found: the item is scored as one without.
    has = [(len(a) > 0, p > 0) for a, p in zip(answers, np.diff(passage.starts).tolist(), strict=True)]
    lengths = np.array([sum(map(len, part)) for part in parts], np.int64)
    index = DeconIndex(
        _table(question.starts, question.hashes),
        question,
        _sets(ngrams(long_answers, settings.answer_ngram)),
        passage,
        *_rows(short_answers, np.uint64),
        np.array([len(words) for words in questions], np.int64),
        np.array([len(words) for words in answers], np.int64),
        _weights(np.diff(question.starts), has, settings.confident_ngrams),
        _thresholds(lengths, settings),
    )
    return index, kept, left_out


def share_index(items: list[Item], settings: NgramShare) -> tuple[ShareIndex, list[Item], dict[str, Counter]]:
    """As `decon_index`. An item's answer is a target of its own from `answer_words` on."""
    parts, kept, left_out = _usable(items, settings.min_words, settings.min_unique_words, 0)
    sets, owners, answers = [], [], []
    grams = ngrams([words for part in parts for words in part], settings.ngram, telling=True)
    for number, (_, answer, _) in enumerate(parts):
        question, of_answer, passage = grams[3 * number : 3 * number + 3]
        sets.append(distinct(np.concatenate([question, passage])) if len(passage) else question)
        owners.append(number)
        answers.append(False)
        if len(answer) >= settings.answer_words and len(distinct(answer)) >= settings.min_unique_words:
            sets.append(of_answer)
            owners.append(number)
            answers.append(True)
    starts, hashes = _rows(sets, np.uint64)
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    telling = counts[inverse] <= settings.max_items
    targets = np.repeat(np.arange(len(sets)), np.diff(starts))
    enough = np.bincount(targets[telling], minlength=len(sets)) >= settings.min_ngrams
    telling &= enough[targets]
    totals = np.bincount(targets[telling], minlength=len(sets)).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(totals)]).astype(np.int64)
    for number in np.setdiff1d(np.arange(len(kept)), np.array(owners, np.int64)[totals > 0]).tolist():
        left_out.setdefault(kept[number].benchmark, Counter())["boilerplate"] += 1
    index = ShareIndex(
        _table(starts, hashes[telling]), totals, np.array(owners, np.int64), np.array(answers, np.bool_)
    )
    return index, kept, left_out


def _usable(items: list[Item], min_words: int, min_unique: int, ngram: int):
    """(question, answer, passage words of each usable item, those items, per benchmark the reasons for the rest).

    An item is usable if it has `min_words` words in all, its prompt `min_unique` distinct ones and its question an
    n-gram, and no item before it in its benchmark has the same words.
    """
    texts = [text for item in items for text in (item.question, item.answer, item.passage)]
    found = word_hashes(texts)
    parts, kept, left_out, seen = [], [], {}, set()
    for number, item in enumerate(items):
        question, _, passage = words = tuple(found[3 * number : 3 * number + 3])
        key = (item.benchmark, *(part.tobytes() for part in words))
        reason = None
        if key in seen:
            reason = "duplicate"
        elif sum(map(len, words)) < min_words or len(question) < max(1, ngram):
            reason = "too_short"
        elif len({*question.tolist(), *passage.tolist()}) < min_unique:
            reason = "few_words"
        seen.add(key)
        if reason:
            left_out.setdefault(item.benchmark, Counter())[reason] += 1
        else:
            parts.append(words)
            kept.append(item)
    return parts, kept, left_out


@cache
def _single_characters() -> np.ndarray:
    return np.concatenate(word_hashes(list("abcdefghijklmnopqrstuvwxyz0123456789_")))


def _parts(starts: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    return [values[start:end] for start, end in pairwise(starts.tolist())]


def _rows(arrays: list[np.ndarray], dtype: Callable) -> tuple[np.ndarray, np.ndarray]:
    """(starts, values) of arrays laid one after the other."""
    starts = np.concatenate([[0], np.cumsum([len(one) for one in arrays], dtype=np.int64)]).astype(np.int64)
    return starts, np.concatenate([np.empty(0, dtype), *arrays])


def _sets(grams: list[np.ndarray]) -> Sets:
    """Sets of n-grams, each weighing ln((1 + items) / items that have it): nothing where all do, never below."""
    starts, hashes = _rows(grams, np.uint64)
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    weights = np.log((1 + len(grams)) / counts)[inverse] if len(hashes) else np.empty(0)
    totals = np.array([weights[a:b].sum() for a, b in pairwise(starts)], np.float64)
    return Sets(starts, hashes, weights, totals)


def _weights(question_ngrams: np.ndarray, has: list[tuple[bool, bool]], confident: int) -> np.ndarray:
    """The weights of the parts. A question of few n-grams yields some of its weight to the other parts."""
    out = np.array([WEIGHTS[one] for one in has], np.float64).reshape(-1, 3)
    confidence = np.minimum(1.0, 0.5 + 0.5 * question_ngrams / confident)
    others = out[:, 1] + out[:, 2]
    taken = np.where(others > 0, out[:, 0] * (1 - confidence), 0.0)
    growth = 1 + np.divide(taken, others, out=np.zeros_like(taken), where=others > 0)
    return np.column_stack([out[:, 0] - taken, out[:, 1] * growth, out[:, 2] * growth])


def _thresholds(lengths: np.ndarray, settings: Decon) -> np.ndarray:
    """1 up to `perfect_words`, `threshold` from `full_words` on, linear in between."""
    share = (lengths - settings.perfect_words) / (settings.full_words - settings.perfect_words)
    return 1 - (1 - settings.threshold) * np.clip(share, 0, 1)


def _table(starts: np.ndarray, hashes: np.ndarray) -> Table:
    unique, gram = np.unique(hashes, return_inverse=True)
    owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.lexsort((owner, gram))
    owner_starts = np.searchsorted(gram[order], np.arange(len(unique) + 1)).astype(np.int64)
    slots = 1 << max(4, (2 * len(unique)).bit_length())
    words = 1 << max(4, (FILTER_BITS * len(unique) // 64).bit_length())
    table = Table(
        np.zeros(words, np.uint64),
        np.zeros(slots, np.uint64),
        np.full(slots, NO_ONE, np.int32),
        owner_starts,
        owner[order].astype(np.int32),
    )
    _fill(unique, table)
    return table


@njit(nogil=True, cache=True)
def _words(data, offsets, tables):
    """(starts, hashes) of the words of texts."""
    starts = np.zeros(len(offsets), np.int64)
    # a word and what parts it from the next are two bytes
    found = np.empty((offsets[-1] - offsets[0]) // 2 + len(offsets), np.uint64)
    for row in range(len(offsets) - 1):
        starts[row + 1], _ = hash_words(data, offsets[row], offsets[row + 1], tables, found, starts[row])
    return starts, found[: starts[-1]].copy()


@njit(nogil=True, cache=True)
def _ngrams(words, starts, ngram, singles):
    """(starts, hashes) of distinct n-grams. `singles`: how many words before each, in all texts, are single."""
    bounds, out = np.zeros(len(starts), np.int64), np.empty(len(words), np.uint64)
    for row in range(len(starts) - 1):
        first, at = starts[row], bounds[row]
        size, kept = starts[row + 1] - first - ngram + 1, 0
        if size > 0:
            grams = out[at : at + size]
            roll(words[first : starts[row + 1]], size + ngram - 1, ngram, grams)
            for place in range(size):
                if 2 * (singles[first + place + ngram] - singles[first + place]) <= ngram:
                    grams[kept] = grams[place]
                    kept += 1
            grams = grams[:kept]
            grams.sort()
            kept = min(kept, 1)
            for place in range(1, len(grams)):
                if grams[place] != grams[kept - 1]:
                    grams[kept] = grams[place]
                    kept += 1
        bounds[row + 1] = at + kept
    return bounds, out[: bounds[-1]].copy()


@njit(nogil=True, cache=True)
def _fill(hashes, table):
    mask = np.uint64(len(table.keys) - 1)
    for gram in range(len(hashes)):
        slot = hashes[gram] & mask
        while table.grams[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        table.keys[slot], table.grams[slot] = hashes[gram], gram
        bit = hashes[gram] >> np.uint64(32)
        word = (bit >> np.uint64(6)) & np.uint64(len(table.filter) - 1)
        table.filter[word] |= np.uint64(1) << (bit & np.uint64(63))


@njit(inline="always")
def gram_of(table, value):
    """The number of an n-gram hash, NO_ONE if no item has it."""
    bit = value >> np.uint64(32)
    word = (bit >> np.uint64(6)) & np.uint64(len(table.filter) - 1)
    if table.filter[word] >> (bit & np.uint64(63)) & np.uint64(1) == 0:
        return np.int32(-1)
    mask = np.uint64(len(table.keys) - 1)
    slot = value & mask
    while table.grams[slot] >= 0:
        if table.keys[slot] == value:
            return table.grams[slot]
        slot = (slot + np.uint64(1)) & mask
    return np.int32(-1)
