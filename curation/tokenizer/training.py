"""Training a byte-level BPE by kernels: words counted as `curation.tokenizer.splits` cuts them, then the merges.

The vocabulary and the merges are those of `tokenizers`' BpeTrainer, whose rules these are: the pair of the highest
count is merged, of several the one of smallest ids. Counts change where a merge has changed words; a queue entry
holds the words in which its pair was new when it was queued, and one whose count is out of date is queued anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from curation.compiled import njit
from curation.measure.kernel import entry, inlined
from curation.measure.utf8 import text_buffers
from curation.tokenizer.splits import STYLES, character_kinds, word_end

BYTES = 256
MOST_BYTES = 1 << 31  # of text: the library counts pairs in 32 bits
_FREE = -1
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class Strings(NamedTuple):
    """Different strings of bytes, numbered as they came, in a hash table with room for more."""

    slots: np.ndarray  # int32, a power of two of them: the number of a string or _FREE
    hashes: np.ndarray  # uint64 (room,)
    ends: np.ndarray  # int64 (room + 1,): string i is bytes[ends[i] : ends[i + 1]]
    bytes: np.ndarray  # uint8
    held: np.ndarray  # int64 (1,): how many there are


def count_words(texts: Iterable[list[str]], split: str) -> tuple[Strings, np.ndarray]:
    """The different words of texts, cut as SPLITS[split], and how often each comes (int64). Raises ValueError for
    MOST_BYTES of text or more."""
    words, counts, read = _strings(1 << 16, 1 << 20), np.zeros(1 << 16, np.int64), 0
    for batch in texts:
        data, offsets = text_buffers(pa.array(batch, pa.large_string()))
        read += int(offsets[-1] - offsets[0])
        if read >= MOST_BYTES:
            raise ValueError(f"a tokenizer is trained on less than {MOST_BYTES:,} bytes of text")
        state = np.array([0, -1], np.int64)
        while (needed := _tally(data, offsets, character_kinds(), STYLES[split], words, counts, state)) >= 0:
            words = _grown(words, needed)
            counts = np.concatenate([counts, np.zeros(len(words.hashes) - len(counts), np.int64)])
    return words, counts[: words.held[0]]


def merges_of(
    words: Strings, counts: np.ndarray, ids: np.ndarray, known: list[bytes | None], size: int, least: int
) -> tuple[list[bytes], list[tuple[int, int]]]:
    """The tokens that are new, until there are `size`, and the pairs of ids that are merged, in their order.

    `ids` (256,): the token of each byte. `known`: the bytes of the tokens there are, None for one that no merge
    can give. `least`: a pair that comes less often is not merged. A pair can be given twice, as the library does.
    """
    tokens = _strings(max(size, len(known)) + 1, 1 << 16)
    for number, token in enumerate(known):
        tokens = (
            tokens if tokens.ends[number] + len(token or b"") <= len(tokens.bytes) else _grown(tokens, len(token))
        )
        _add(np.frombuffer(token or b"", np.uint8), tokens, token is not None)
    ends = words.ends[: len(counts) + 1]
    symbols = ids.astype(np.int32)[words.bytes[: ends[-1]]]
    ends, data, pairs = _merge(symbols, ends, counts, tokens, size, least)
    new = range(len(known), len(ends) - 1)
    return [data[ends[one] : ends[one + 1]].tobytes() for one in new], list(map(tuple, pairs.tolist()))


def _strings(room: int, size: int) -> Strings:
    slots = np.full(1 << (2 * room - 1).bit_length(), _FREE, np.int32)
    return Strings(
        slots,
        np.empty(room, np.uint64),
        np.zeros(room + 1, np.int64),
        np.empty(size, np.uint8),
        np.zeros(1, np.int64),
    )


def _grown(strings: Strings, needed: int) -> Strings:
    """The same strings with room for twice as many, and for `needed` bytes more."""
    held, size = int(strings.held[0]), len(strings.bytes)
    larger = _strings(2 * len(strings.hashes), 2 * size + needed)
    larger.hashes[:held], larger.ends[: held + 1] = strings.hashes[:held], strings.ends[: held + 1]
    larger.bytes[:size], larger.held[0] = strings.bytes, held
    _fill_slots(larger.slots, larger.hashes, held)
    return larger


@entry
def _fill_slots(slots, hashes, held):
    for number in range(held):
        slot = np.int64(hashes[number] & np.uint64(len(slots) - 1))
        while slots[slot] >= 0:
            slot = (slot + 1) & (len(slots) - 1)
        slots[slot] = number


@inlined
def _hash(data, start, end):
    value = np.uint64(end - start)
    for at in range(start, end):
        value = (value ^ np.uint64(data[at])) * _FACTOR
        value ^= value >> np.uint64(32)
    return value


@inlined
def _find(data, start, end, value, slots, hashes, ends, held):
    """The slot of a string: it holds the string's number, or is free."""
    slot = np.int64(value & np.uint64(len(slots) - 1))
    while slots[slot] >= 0:
        number = slots[slot]
        if hashes[number] == value and ends[number + 1] - ends[number] == end - start:
            at = ends[number]
            same = True
            for step in range(end - start):
                if held[at + step] != data[start + step]:
                    same = False
                    break
            if same:
                break
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@inlined
def _put(data, start, end, value, number, hashes, ends, held):
    hashes[number] = value
    at = ends[number]
    for step in range(end - start):
        held[at + step] = data[start + step]
    ends[number + 1] = at + end - start


@entry
def _add(data, strings, findable):
    """Number one more string, for which there is room; one that is not `findable` equals no other."""
    value, number = _hash(data, 0, len(data)), strings.held[0]
    slot = _find(data, 0, len(data), value, strings.slots, strings.hashes, strings.ends, strings.bytes)
    _put(data, 0, len(data), value, number, strings.hashes, strings.ends, strings.bytes)
    if findable:
        strings.slots[slot] = number
    strings.held[0] += 1


@entry
def _tally(data, offsets, kinds, style, words, counts, state):
    """counts[word] += 1 for every word of the texts, from (row, byte) `state` on.

    Returns -1, or the bytes of a word that there is no room for: to be called again with more.
    """
    first_at = state[1]
    for row in range(state[0], len(offsets) - 1):
        at, end = offsets[row], offsets[row + 1]
        if first_at >= 0:
            at, first_at = first_at, np.int64(-1)
        while at < end:
            start, at = at, word_end(data, at, end, kinds, style)
            value = _hash(data, start, at)
            slot = _find(data, start, at, value, words.slots, words.hashes, words.ends, words.bytes)
            number = np.int64(words.slots[slot])
            if number < 0:
                number = words.held[0]
                if number == len(words.hashes) or words.ends[number] + at - start > len(words.bytes):
                    state[0], state[1] = row, start
                    return at - start
                words.slots[slot] = number
                _put(data, start, at, value, number, words.hashes, words.ends, words.bytes)
                words.held[0] += 1
            counts[number] += 1
    return np.int64(-1)


@njit(nogil=True)
def _twice(array):
    larger = np.empty(2 * len(array), array.dtype)
    larger[: len(array)] = array
    return larger


@njit(nogil=True)
def _pair_slot(key, slots, keys):
    slot = np.int64((key * _FACTOR) >> np.uint64(20)) & (len(slots) - 1)
    while slots[slot] >= 0 and keys[slots[slot]] != key:
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@njit(nogil=True)
def _rehashed(keys, pairs, slots):
    larger = np.full(2 * len(slots), _FREE, np.int32)
    for number in range(pairs):
        larger[_pair_slot(keys[number], larger, keys)] = number
    return larger


@njit(nogil=True)
def _before(one, other, entry_counts, entry_pairs, keys):
    """Whether queue entry `one` is to be merged before `other`."""
    if entry_counts[one] != entry_counts[other]:
        return entry_counts[one] > entry_counts[other]
    return keys[entry_pairs[one]] < keys[entry_pairs[other]]


@njit(nogil=True)
def _sift_up(queue, place, entry_counts, entry_pairs, keys):
    moved = queue[place]
    while place > 0:
        above = (place - 1) >> 1
        if not _before(moved, queue[above], entry_counts, entry_pairs, keys):
            break
        queue[place] = queue[above]
        place = above
    queue[place] = moved


@njit(nogil=True)
def _sift_down(queue, queued, entry_counts, entry_pairs, keys):
    place, moved = 0, queue[0]
    while 2 * place + 1 < queued:
        below = 2 * place + 1
        if below + 1 < queued and _before(queue[below + 1], queue[below], entry_counts, entry_pairs, keys):
            below += 1
        if not _before(queue[below], moved, entry_counts, entry_pairs, keys):
            break
        queue[place] = queue[below]
        place = below
    queue[place] = moved


@njit(nogil=True, cache=True)
def _merge(symbols, starts, counts, tokens, size, least):
    """See `merges_of`. Returns (ends of the tokens, their bytes, pairs int32 (merges, 2))."""
    slots, hashes, ends, data, known = tokens.slots, tokens.hashes, tokens.ends, tokens.bytes, tokens.held[0]
    # Pairs by number: their ids, how often they come, the entry that this round has made for them.
    pairs, room = 0, 1 << 16
    pair_slots = np.full(2 * room, _FREE, np.int32)
    keys, pair_counts, round_entry = np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.int32)
    # Queue entries: pair, count, the first node of their words; a node is a word and the next node.
    entries, entry_room = 0, 1 << 16
    entry_pairs, entry_counts = np.empty(entry_room, np.int32), np.empty(entry_room, np.int64)
    entry_nodes = np.empty(entry_room, np.int32)
    nodes, free = 0, np.int32(_FREE)
    node_words, node_next = np.empty(1 << 16, np.int32), np.empty(1 << 16, np.int32)
    queue, queued = np.empty(1 << 16, np.int32), 0
    # The words in which pairs are counted: all, then those of the entry under way.
    lengths = np.empty(len(counts), np.int32)
    for word in range(len(counts)):
        lengths[word] = starts[word + 1] - starts[word]
    merged = np.empty((size, 2), np.int32)
    merges = 0
    left, right, new, node = np.int32(_FREE), np.int32(_FREE), np.int32(_FREE), np.int32(_FREE)
    changed = np.empty(16, np.uint64)
    signs = np.empty(16, np.int8)
    while True:
        # One round: of every word at hand its changes to pairs. In the first one nothing is merged.
        first_entry, following = entries, 0
        while True:
            if new < 0:
                if following == len(counts):
                    break
                word = following
                following += 1
            else:
                if node < 0:
                    break
                word = np.int64(node_words[node])
                after = node_next[node]
                node_next[node], free = free, node
                node = after
            start, length, changes = starts[word], np.int64(lengths[word]), 0
            while 4 * length + 4 > len(changed):
                changed, signs = _twice(changed), _twice(signs)
            if new < 0:
                for at in range(start, start + length - 1):
                    changed[changes] = np.uint64(symbols[at]) << np.uint64(32) | np.uint64(symbols[at + 1])
                    signs[changes] = 1
                    changes += 1
            else:
                out, at = start, start
                while at < start + length:
                    if symbols[at] == left and at + 1 < start + length and symbols[at + 1] == right:
                        if out > start:
                            before = np.uint64(symbols[out - 1]) << np.uint64(32)
                            changed[changes], signs[changes] = before | np.uint64(left), -1
                            changed[changes + 1], signs[changes + 1] = before | np.uint64(new), 1
                            changes += 2
                        if at + 2 < start + length:
                            behind = np.uint64(symbols[at + 2])
                            changed[changes], signs[changes] = np.uint64(right) << np.uint64(32) | behind, -1
                            changed[changes + 1] = np.uint64(new) << np.uint64(32) | behind
                            signs[changes + 1] = 1
                            changes += 2
                        symbols[out] = new
                        at += 2
                    else:
                        symbols[out] = symbols[at]
                        at += 1
                    out += 1
                lengths[word] = out - start
            for change in range(changes):
                slot = _pair_slot(changed[change], pair_slots, keys)
                pair = pair_slots[slot]
                if pair < 0:
                    if pairs == len(keys):
                        keys, pair_counts, round_entry = _twice(keys), _twice(pair_counts), _twice(round_entry)
                        pair_slots = _rehashed(keys, pairs, pair_slots)
                        slot = _pair_slot(changed[change], pair_slots, keys)
                    pair = np.int32(pairs)
                    pair_slots[slot], keys[pair], pair_counts[pair], round_entry[pair] = (
                        pair,
                        changed[change],
                        0,
                        -1,
                    )
                    pairs += 1
                pair_counts[pair] += signs[change] * counts[word]
                if signs[change] < 0:
                    continue
                made = round_entry[pair]
                if made < first_entry:
                    if entries == len(entry_pairs):
                        entry_pairs, entry_counts = _twice(entry_pairs), _twice(entry_counts)
                        entry_nodes = _twice(entry_nodes)
                    made = np.int32(entries)
                    entry_pairs[made], entry_nodes[made], round_entry[pair] = pair, _FREE, made
                    entries += 1
                elif node_words[entry_nodes[made]] == word:
                    continue
                if free < 0:
                    if nodes == len(node_words):
                        node_words, node_next = _twice(node_words), _twice(node_next)
                    free, node_next[nodes] = np.int32(nodes), _FREE
                    nodes += 1
                place = free
                free = node_next[place]
                node_words[place], node_next[place] = word, entry_nodes[made]
                entry_nodes[made] = place
        for made in range(first_entry, entries):
            entry_counts[made] = pair_counts[entry_pairs[made]]
            if entry_counts[made] > 0:
                if queued == len(queue):
                    queue = _twice(queue)
                queue[queued] = made
                _sift_up(queue, queued, entry_counts, entry_pairs, keys)
                queued += 1
        # The next merge.
        best = np.int32(_FREE)
        while known < size and queued and best < 0:
            best = queue[0]
            count = pair_counts[entry_pairs[best]]
            if entry_counts[best] != count:
                entry_counts[best], best = count, np.int32(_FREE)
            else:
                queued -= 1
                queue[0] = queue[queued]
            if queued:
                _sift_down(queue, queued, entry_counts, entry_pairs, keys)
        if best < 0 or entry_counts[best] < max(1, least):
            break
        key = keys[entry_pairs[best]]
        left, right = np.int32(key >> np.uint64(32)), np.int32(key & np.uint64(0xFFFFFFFF))
        node = entry_nodes[best]
        room = ends[left + 1] - ends[left] + ends[right + 1] - ends[right]
        while ends[known] + room > len(data):
            data = _twice(data)
        # The token's bytes go where they stay if it is new.
        at = ends[known]
        for one in (left, right):
            for place in range(ends[one], ends[one + 1]):
                data[at] = data[place]
                at += 1
        value = _hash(data, ends[known], at)
        slot = _find(data, ends[known], at, value, slots, hashes, ends, data)
        if slots[slot] < 0:
            slots[slot], hashes[known], ends[known + 1] = known, value, at
            known += 1
        new = np.int32(slots[slot])
        if merges == len(merged):
            grown = np.empty((2 * merges, 2), np.int32)
            grown[:merges] = merged
            merged = grown
        merged[merges, 0], merged[merges, 1] = left, right
        merges += 1
    return ends[: known + 1], data, merged[:merges]
