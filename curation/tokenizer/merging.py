"""How many tokens a byte-level BPE makes of a word: its merges, compiled, in the order that `tokenizers` has them.

The pair of lowest rank is merged, of several the leftmost, until no pair of neighbours has a rank. A word is its
symbols, a lane each, and the rank of the pair that each begins. Four short words are merged in step: a merge is a
chain of look-ups, each of which waits for the one before, and a processor works on four chains at a time. Long
words keep the least rank of every 32, of every 32 of those and so on: a merge takes time as the logarithm.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from curation.compiled import njit
from curation.measure.intrinsics import element, high_product, leading_zeros, ones, trailing_zeros
from curation.measure.kernel import inlined, kernel

SHORT = LANES = 32  # bytes of a word that is merged in step with others
WIDTH = 4  # how many
ROW = 96  # numbers that each of them has of the two arrays of a station: 16 unused, then a lane each
LEFTMOST = 16
FIELD = 21  # bits of a symbol or rank in an entry of the table of pairs
NOTHING = (1 << FIELD) - 1  # the symbol that no pair has
NONE = np.uint32(0xFFFFFFFF)
FREE = np.uint64(0xFFFFFFFFFFFFFFFF)
_MIX, _ONE, _LOW = np.uint64(0x9E3779B97F4A7C15), np.uint64(1), np.uint64(NOTHING)
_LANE, _LANE_BITS = np.uint32(LANES - 1), np.uint32(5)
_END = np.uint64(1 << 40)  # among the bits of lanes: one that is never merged away


@intrinsic
def _least(context, array, at):
    """The least of array[at : at + 32] of a uint32 array. Nothing is checked."""
    lanes = ir.VectorType(ir.IntType(32), LANES)

    def build(target, builder, signature, arguments):
        place = element(target, builder, signature.args[0], *arguments)
        found = builder.load(builder.bitcast(place, lanes.as_pointer()), align=4)
        kind = ir.FunctionType(ir.IntType(32), [lanes])
        return builder.call(builder.module.declare_intrinsic("llvm.vector.reduce.umin.v32i32", (), kind), [found])

    return types.uint32(array, types.intp), build


@njit(nogil=True, cache=True)
def place_pairs(keys, ranks, buckets, slots):
    """The table of pairs (uint64) and the factors of its buckets (uint16): a perfect hash, without branches.

    keys: `left << FIELD | right`, uint64, each once. An entry is `key << FIELD | rank`, FREE where there is none.
    The pairs of a bucket share the factor that brings all of them to free slots (hash and displace). The table is
    empty where no factor does: give it more slots.
    """
    mixed = keys * _MIX
    bucket = np.empty(len(keys), np.int64)
    starts = np.zeros(buckets + 1, np.int64)
    for number in range(len(keys)):
        bucket[number] = high_product(mixed[number], np.uint64(buckets))
        starts[bucket[number] + 1] += 1
    sizes = starts[1:].copy()
    starts = np.cumsum(starts)
    members = np.argsort(bucket, kind="mergesort")
    table, factors = np.full(slots, FREE), np.ones(buckets, np.uint16)
    found = np.empty(len(keys), np.int64)
    for one in np.argsort(-sizes, kind="mergesort"):
        factor, placed = -1, -1
        while placed < sizes[one]:
            factor += 2
            if factor > 0xFFFF:
                return table[:0], factors
            placed = 0
            while placed < sizes[one]:
                member = members[starts[one] + placed]
                slot = np.int64(high_product(mixed[member] * np.uint64(factor), np.uint64(slots)))
                if table[slot] != FREE or (found[:placed] == slot).any():
                    break
                found[placed] = slot
                placed += 1
        factors[one] = factor
        for number in range(sizes[one]):
            member = members[starts[one] + number]
            table[found[number]] = keys[member] << np.uint64(FIELD) | np.uint64(ranks[member])
    return table, factors


@inlined
def _rank(left, right, lane, table, factors):
    """Of a pair of symbols that begins in a lane: 32 times its rank and the lane, NONE if it has no rank."""
    key = np.uint64(left) << np.uint64(FIELD) | np.uint64(right)
    mixed = key * _MIX
    factor = np.uint64(factors[high_product(mixed, np.uint64(len(factors)))])
    entry = table[high_product(mixed * factor, np.uint64(len(table)))]
    rank = np.uint32(entry & _LOW) << _LANE_BITS | np.uint32(lane)
    return rank if entry >> np.uint64(FIELD) == key else NONE


@inlined
def _begin(data, start, size, at, byte_ranks, symbols, ranks):
    """Put the bytes of a word into the lanes from `at` on; returns the bits of the lanes in use."""
    for lane in range(at, at + LANES):
        ranks[lane] = NONE
    before = np.int64(data[start])
    symbols[at] = before
    for lane in range(1, size):
        byte = np.int64(data[start + lane])
        symbols[at + lane] = byte
        ranks[at + lane - 1] = byte_ranks[before << 8 | byte] | np.uint32(lane - 1)
        before = byte
    return (_ONE << np.uint64(size)) - _ONE | _END


@inlined
def _merge(best, live, at, table, factors, results, symbols, ranks):
    """Merge the pair whose rank and lane `best` is; returns the bits of the lanes left. NONE changes nothing seen.

    No step depends on whether there is a neighbour: one that is missing is NOTHING, beside the word's lanes.
    """
    lane = np.int64(best & _LANE)
    after = live & ~((np.uint64(2) << np.uint64(lane)) - _ONE)
    right = trailing_zeros(after)
    live = live & ~(_ONE << np.uint64(right)) | _END
    next_ = trailing_zeros(after & (after - _ONE))
    previous = 63 - leading_zeros(live & ((_ONE << np.uint64(lane)) - _ONE))
    new = results[min(np.int64(best >> _LANE_BITS), len(results) - 1)]
    symbols[at + lane] = new
    ranks[at + right] = NONE
    ranks[at + lane] = _rank(new, symbols[at + next_], lane, table, factors)
    ranks[at + previous] = _rank(symbols[at + previous], new, previous & 31, table, factors)
    return live


@kernel
def count_short(data, starts, sizes, counts, byte_ranks, table, factors, results, symbols, ranks, live, best):
    """counts[k] <- the tokens of data[starts[k] : starts[k] + sizes[k]], k < WIDTH; sizes are 1 to SHORT."""
    for one in range(WIDTH):
        live[one] = _begin(data, starts[one], sizes[one], one * ROW + LEFTMOST, byte_ranks, symbols, ranks)
    while True:
        least = NONE
        for one in range(WIDTH):
            best[one] = _least(ranks, one * ROW + LEFTMOST)
            least = min(least, best[one])
        if least == NONE:
            break
        for one in range(WIDTH):
            live[one] = _merge(best[one], live[one], one * ROW + LEFTMOST, table, factors, results, symbols, ranks)
    for one in range(WIDTH):
        counts[one] = ones(live[one]) - 1


def long_room(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `count_long` needs for words of up to `size` bytes: 9 bytes for each."""
    return (
        np.empty(size + size // 16 + 8 * LANES, np.uint32),  # tree: a rank a lane, then the least of 32, and so on
        np.empty(size, np.int32),  # symbols
        np.empty(size // 64 + 1, np.uint64),  # live: a bit a lane in use
    )


@kernel
def count_long(data, start, size, byte_ranks, table, factors, results, tree, symbols, live, firsts):
    """The tokens of data[start : start + size]; `firsts` (int64, 8): where levels of the tree begin."""
    width, total, levels = size, 0, 0
    while True:
        firsts[levels] = total
        width = -(-width // LANES)
        total += width * LANES
        levels += 1
        if width == 1:
            break
    words = size // 64 + 1
    tree[:total] = NONE
    live[:words] = 0
    for lane in range(size):
        symbols[lane] = data[start + lane]
        live[lane >> 6] |= _ONE << np.uint64(lane & 63)
        if lane + 1 < size:
            rank = byte_ranks[np.int64(data[start + lane]) << 8 | np.int64(data[start + lane + 1])]
            tree[lane] = rank | np.uint32(lane) & _LANE
    for level in range(1, levels):
        for block in range((firsts[level] - firsts[level - 1]) // LANES):
            tree[firsts[level] + block] = _above(_least(tree, firsts[level - 1] + block * LANES), block)
    while True:
        best = _least(tree, firsts[levels - 1])
        if best == NONE:
            return size
        lane = np.int64(best & _LANE)
        for level in range(levels - 2, -1, -1):
            best = _least(tree, firsts[level] + lane * LANES)
            lane = lane * LANES + np.int64(best & _LANE)
        right = _next(live, words, lane)
        live[right >> 6] &= ~(_ONE << np.uint64(right & 63))
        size -= 1
        new = results[best >> _LANE_BITS]
        symbols[lane] = new
        _set(tree, firsts, levels, right, NONE)
        after, before = _next(live, words, lane), _previous(live, lane)
        rank = NONE if after < 0 else _rank(new, symbols[after], lane & 31, table, factors)
        _set(tree, firsts, levels, lane, rank)
        if before >= 0:
            _set(tree, firsts, levels, before, _rank(symbols[before], new, before & 31, table, factors))


@inlined
def _above(least, block):
    """What the level above has of the least of a block: its rank and the block's place in the next one."""
    return NONE if least == NONE else least & ~_LANE | np.uint32(block) & _LANE


@inlined
def _set(tree, firsts, levels, lane, rank):
    tree[lane] = rank
    for level in range(1, levels):
        lane >>= 5
        least = _above(_least(tree, firsts[level - 1] + lane * LANES), lane)
        if tree[firsts[level] + lane] == least:
            break
        tree[firsts[level] + lane] = least


@inlined
def _next(live, words, lane):
    """The first lane in use after one; -1 if there is none."""
    word = lane >> 6
    bits = live[word] & ~((np.uint64(2) << np.uint64(lane & 63)) - _ONE)
    while not bits:
        word += 1
        if word == words:
            return np.int64(-1)
        bits = live[word]
    return word << 6 | trailing_zeros(bits)


@inlined
def _previous(live, lane):
    """The last lane in use before one; -1 if there is none."""
    word = lane >> 6
    bits = live[word] & ((_ONE << np.uint64(lane & 63)) - _ONE)
    while not bits:
        word -= 1
        if word < 0:
            return np.int64(-1)
        bits = live[word]
    return word << 6 | (63 - leading_zeros(bits))
