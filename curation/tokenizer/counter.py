"""Counting the tokens of texts without their ids, for the byte-level BPEs that kernels of our own know."""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from curation.measure.intrinsics import high_product, load64
from curation.measure.kernel import entry, inlined, kernel
from curation.measure.utf8 import text_buffers
from curation.tokenizer.config import SPLITS
from curation.tokenizer.merging import (
    FIELD,
    NONE,
    NOTHING,
    ROW,
    SHORT,
    WIDTH,
    count_long,
    count_short,
    long_room,
    place_pairs,
)
from curation.tokenizer.splits import STYLES, character_kinds, word_end

BYTES = 256
REMEMBERED = 30  # bytes of the longest word whose count is kept
WAITING = 64  # words that are merged at a time
LONG = 1 << 16  # bytes of a word that there is always room for
SLOTS = 1 << 16  # words kept, 32 bytes each: they should stay in the cache nearest to a core
_COUNT = np.uint64(56)  # a slot is the word, zeros, a byte for its length and one for its count
_WORD = (np.uint64(1) << _COUNT) - np.uint64(1)
_MASKS = np.array(
    [[(1 << 8 * min(8, max(0, size - at))) - 1 for at in (0, 8, 16, 24)] for size in range(REMEMBERED + 1)],
    np.uint64,
)
_MIX = np.array([0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3, 0x589965CC75374CC3], np.uint64)


class Rules(NamedTuple):
    """The merges of a byte-level BPE as kernels take them. A symbol is a byte or a number from 256 on."""

    byte_ranks: np.ndarray  # uint32 (65536,): 32 times the rank of a pair of bytes, NONE without one
    table: np.ndarray  # uint64: the ranks of all pairs, by `place_pairs`
    factors: np.ndarray  # uint16
    results: np.ndarray  # int32 (merges + 1,): the symbol that each rank gives; the last is NOTHING


class Station(NamedTuple):
    """What one thread counts with."""

    words: np.ndarray  # uint64 (SLOTS, 4): words seen before and their counts
    symbols: np.ndarray  # int32 (WIDTH * ROW,)
    ranks: np.ndarray  # uint32 (WIDTH * ROW,)
    live: np.ndarray  # uint64 (WIDTH,)
    best: np.ndarray  # uint32 (WIDTH,)
    starts_now: np.ndarray  # int64 (WIDTH,): the words that are merged in step
    sizes_now: np.ndarray  # int64 (WIDTH,)
    counts: np.ndarray  # int64 (WIDTH,)
    lengths: np.ndarray  # int64 (SHORT + 2,)
    order: np.ndarray  # int64 (WAITING,): the words that wait, by length
    starts: np.ndarray  # int64 (WAITING,): the words that wait
    sizes: np.ndarray  # int64 (WAITING,)
    rows: np.ndarray  # int64 (WAITING,)
    places: np.ndarray  # int64 (WAITING,): their slots among the words, -1 for none
    state: np.ndarray  # int64 (2,): the row to go on with, and the byte
    firsts: np.ndarray  # int64 (8,)
    tree: np.ndarray  # these three by `long_room`
    lanes: np.ndarray
    used: np.ndarray


class Counter:
    """Counts tokens as `tokenizers` does, special tokens spelled in a text being text. Threads may share it.

    It knows byte-level BPE without dropout, normalizer or added tokens other than special ones, split as one of
    `curation.tokenizer.config.SPLITS`: what this project trains, and the tokenizers of GPT-2 and Llama 3.
    """

    def __init__(self, tokenizer: dict):
        """`tokenizer`: what tokenizer.json holds. Raises ValueError for one that the kernels do not know."""
        self._style = STYLES[_split_of(tokenizer)]
        self._rules = _rules_of(tokenizer)
        self._local = threading.local()
        if tokenizer["model"].get("ignore_merges") and (found := self._unreached(tokenizer["model"]["vocab"])):
            raise ValueError(f"the model ignores merges for words that they do not give: {found[:3]}")

    def count(self, texts: pa.LargeStringArray) -> np.ndarray:
        """The tokens of each of n texts, int64 (n,)."""
        data, offsets = text_buffers(texts)
        if not hasattr(self._local, "station"):
            self._local.station = _station()
        station, counts = self._local.station, np.zeros(len(texts), np.int64)
        station.state[:] = 0, -1
        while size := _count_texts(data, offsets, counts, character_kinds(), self._style, self._rules, station):
            tree, lanes, used = long_room(size)
            station = station._replace(tree=tree, lanes=lanes, used=used)
        return counts

    def _unreached(self, vocabulary: dict[str, int]) -> list[str]:
        """The tokens, a word each, that merging its bytes does not give."""
        bytes_of = {character: byte for byte, character in enumerate(byte_characters())}
        tokens = [token for token in vocabulary if token and bytes_of.keys() >= set(token)]
        offsets = np.cumsum([0, *map(len, tokens)])
        data = np.array([bytes_of[character] for token in tokens for character in token], np.uint8)
        counts = np.zeros(len(tokens), np.int64)
        room = (*long_room(max(map(len, tokens))), np.empty(8, np.int64))
        _count_words(data, offsets, counts, self._rules, room)
        return [token for token, count in zip(tokens, counts, strict=True) if count != 1]


def _split_of(tokenizer: dict) -> str:
    """The name of the split in SPLITS. Raises ValueError if there is another, or more before or beside it."""
    if tokenizer.get("normalizer") is not None:
        raise ValueError("the tokenizer has a normalizer")
    if found := [one["content"] for one in tokenizer["added_tokens"] if not one["special"]]:
        raise ValueError(f"added tokens are looked for in texts: {found[:3]}")
    steps = tokenizer.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    if steps[-1].get("type") == "ByteLevel" and not steps[-1]["add_prefix_space"]:
        if len(steps) == 1 and steps[0].get("use_regex", True):
            return "gpt2"
        if len(steps) == 2 and steps[0].get("type") == "Split" and not steps[1].get("use_regex", True):
            asked = (steps[0]["pattern"], steps[0]["behavior"], steps[0]["invert"])
            for name, pattern in SPLITS.items():
                if asked == ({"Regex": pattern}, "Isolated", False):
                    return name
    raise ValueError("texts are split by another pattern")


def _rules_of(tokenizer: dict) -> Rules:
    """Raises ValueError for a model that is not a plain byte-level BPE."""
    model = tokenizer["model"]
    if model["type"] != "BPE":
        raise ValueError(f"the model is {model['type']}")
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if found := [name for name in odd if model.get(name)]:
        raise ValueError(f"the model has {', '.join(found)}")
    vocabulary = model["vocab"]
    symbols = {character: byte for byte, character in enumerate(byte_characters())}
    if not symbols.keys() <= vocabulary.keys() or len(set(vocabulary.values())) < len(vocabulary):
        raise ValueError("the vocabulary lacks a byte or gives two tokens one id")
    merges = [one.split(" ") if isinstance(one, str) else one for one in model["merges"]]
    if max(len(merges), len(vocabulary)) + BYTES >= NOTHING:
        raise ValueError("the vocabulary is too large")
    ranks, results = {}, np.full(len(merges) + 1, NOTHING, np.int32)
    for rank, (left, right) in enumerate(merges):
        pair = symbols.setdefault(left, len(symbols)), symbols.setdefault(right, len(symbols))
        ranks[pair] = rank  # of a pair given twice the last one holds
        results[rank] = symbols.setdefault(left + right, len(symbols))
    byte_ranks = np.full(BYTES * BYTES, NONE)
    for (left, right), rank in ranks.items():
        if max(left, right) < BYTES:
            byte_ranks[left << 8 | right] = rank << 5
    keys = np.array([left << FIELD | right for left, right in ranks] or [0], np.uint64)
    numbers = np.array([*ranks.values()] or [0], np.int64)
    table, slots = np.empty(0, np.uint64), len(keys)
    while not len(table):
        slots += len(keys) // 8 + 1
        table, factors = place_pairs(keys, numbers, len(keys) // 3 + 1, slots)
    return Rules(byte_ranks, table, factors, results)


def byte_characters() -> list[str]:
    """The character for each byte in byte-level vocabularies: itself if printed, else one from 256 on."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(BYTES, 2 * BYTES))
    return [chr(byte if byte in printed else next(others)) for byte in range(BYTES)]


def _station() -> Station:
    def numbers(size: int, kind: type = np.int64, value: int = 0) -> np.ndarray:
        return np.full(size, value, kind)

    return Station(
        np.zeros((SLOTS, 4), np.uint64),
        numbers(WIDTH * ROW, np.int32, NOTHING), numbers(WIDTH * ROW, np.uint32, NONE),
        numbers(WIDTH, np.uint64), numbers(WIDTH, np.uint32),
        numbers(WIDTH), numbers(WIDTH), numbers(WIDTH), numbers(SHORT + 2),
        *(numbers(WAITING) for _ in range(5)), numbers(2), numbers(8), *long_room(LONG),
    )  # fmt: skip


@entry
def _count_texts(data, offsets, counts, kinds, style, rules, station):
    """counts[row] += the tokens of data[offsets[row] : offsets[row + 1]], from station.state on.

    Returns 0, or the bytes of a word that the station lacks room for: to be called again with more.
    """
    words, waiting = station.words, 0
    starts, sizes, rows, places = station.starts, station.sizes, station.rows, station.places
    first_row, first_at = station.state[0], station.state[1]
    for row in range(first_row, len(counts)):
        at, end, found = offsets[row], offsets[row + 1], 0
        if first_at >= 0:
            at, first_at = first_at, np.int64(-1)
        while at < end:
            start, at = at, word_end(data, at, end, kinds, style)
            size = at - start
            if size == 1:
                found += 1
                continue
            if size > SHORT:
                if size > len(station.lanes):
                    counts[row] += found
                    station.state[0], station.state[1] = row, start
                    _merge_waiting(data, counts, waiting, rules, station)
                    return size
                found += count_long(
                    data, start, size, rules.byte_ranks, rules.table, rules.factors, rules.results,
                    station.tree, station.lanes, station.used, station.firsts,
                )  # fmt: skip
                continue
            place = np.int64(-1)
            if size <= REMEMBERED and start + SHORT <= len(data):
                word = _slot(data, start, size)
                place = _place(word)
                if _is_at(words, place, word):
                    found += np.int64(words[place, 3] >> _COUNT)
                    continue
                if _is_at(words, place ^ 1, word):
                    found += np.int64(words[place ^ 1, 3] >> _COUNT)
                    continue
            starts[waiting], sizes[waiting], rows[waiting], places[waiting] = start, size, row, place
            waiting += 1
            if waiting == WAITING:
                _merge_waiting(data, counts, waiting, rules, station)
                waiting = 0
        counts[row] += found
    _merge_waiting(data, counts, waiting, rules, station)
    return 0


@entry
def _count_words(data, offsets, counts, rules, room):
    """counts[row] <- the tokens of data[offsets[row] : offsets[row + 1]], a word each."""
    for row in range(len(counts)):
        size = offsets[row + 1] - offsets[row]
        counts[row] = count_long(
            data, offsets[row], size, rules.byte_ranks, rules.table, rules.factors, rules.results, *room
        )


@inlined
def _slot(data, start, size):
    """A slot of the words for one, but for its count."""
    return (
        load64(data, start) & _MASKS[size, 0],
        load64(data, start + 8) & _MASKS[size, 1],
        load64(data, start + 16) & _MASKS[size, 2],
        load64(data, start + 24) & _MASKS[size, 3] | np.uint64(size) << np.uint64(48),
    )


@inlined
def _place(word):
    """Where a word goes, and after the next one that goes there too, beside it."""
    one = (word[0] ^ _MIX[0]) * _MIX[1] ^ high_product(word[1] ^ _MIX[1], _MIX[2])
    mixed = (one ^ one >> np.uint64(32) ^ word[2] * _MIX[3] ^ word[3]) * _MIX[2]
    return np.int64(high_product(mixed, np.uint64(SLOTS)))


@inlined
def _is_at(words, place, word):
    differs = word[0] ^ words[place, 0] | word[1] ^ words[place, 1] | word[2] ^ words[place, 2]
    return not differs | (word[3] ^ words[place, 3]) & _WORD


@kernel
def _merge_waiting(data, counts, waiting, rules, station):
    """Add the tokens of the waiting words to their rows, and remember them.

    Words that are merged in step wait for the one of most merges, so those of one length go together.
    """
    firsts, order = station.lengths, station.order
    firsts[:] = 0
    for one in range(waiting):
        firsts[station.sizes[one] + 1] += 1
    for size in range(2, SHORT + 1):
        firsts[size] += firsts[size - 1]
    for one in range(waiting):
        order[firsts[station.sizes[one]]] = one
        firsts[station.sizes[one]] += 1
    for first in range(0, waiting, WIDTH):
        for one in range(WIDTH):
            number = order[min(first + one, waiting - 1)]
            station.starts_now[one], station.sizes_now[one] = station.starts[number], station.sizes[number]
        count_short(
            data, station.starts_now, station.sizes_now, station.counts,
            rules.byte_ranks, rules.table, rules.factors, rules.results,
            station.symbols, station.ranks, station.live, station.best,
        )  # fmt: skip
        for one in range(min(WIDTH, waiting - first)):
            number = order[first + one]
            counts[station.rows[number]] += station.counts[one]
            place = station.places[number]
            if place >= 0:
                word = _slot(data, station.starts[number], station.sizes[number])
                for part in range(4):
                    station.words[place ^ 1, part] = station.words[place, part]
                station.words[place, 0], station.words[place, 1], station.words[place, 2] = word[:3]
                station.words[place, 3] = word[3] | np.uint64(station.counts[one]) << _COUNT
