"""Sums of rows of a large float32 matrix: the rows lie anywhere, so that most of the time goes into fetching them.

`padded` makes rows as wide as the processor's loads, and `ask_for_row` has one fetched well before `add_rows` adds
it. The order of the additions is fixed, so that sums are equal on every machine.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from curation.compiled import njit
from curation.measure.intrinsics import element, prefetch

LANES = 16  # float32 in a cache line of 64 bytes


def padded(rows: np.ndarray) -> np.ndarray:
    """A copy of float32 `rows` (n, width) that begins at a cache line.

    Rows are widened by zeros to a power of two up to LANES or to a multiple of LANES, so that each lies on as few
    cache lines as it can.
    """
    count, width = rows.shape
    wide = -(-width // LANES) * LANES if width > LANES else 1 << max(0, width - 1).bit_length()
    room = np.empty(count * wide * 4 + 64, np.uint8)
    first = -room.ctypes.data % 64
    copy = room[first : first + count * wide * 4].view(np.float32).reshape(count, wide)
    copy[:, :width] = rows
    copy[:, width:] = 0
    return copy


def _adder(lanes: int, count: int):
    """An intrinsic that adds `count` rows, those at found[first:], to sums[column : column + lanes], by pairs."""

    @intrinsic
    def add(context, sums, column, rows, found, first):
        def build(target, builder, signature, arguments):
            kinds, vector = signature.args, ir.VectorType(ir.FloatType(), lanes)
            sums, column, rows, found, first = arguments
            width = builder.extract_value(target.make_array(kinds[2])(target, builder, rows).shape, 1)

            def load(kind, array, place):
                pointer = builder.bitcast(element(target, builder, kind, array, place), vector.as_pointer())
                return pointer, builder.load(pointer, align=4)

            parts = []
            for n in range(count):
                place = element(target, builder, kinds[3], found, builder.add(first, first.type(n)))
                start = builder.mul(builder.load(place), width)
                parts.append(load(kinds[2], rows, builder.add(start, column))[1])
            while len(parts) > 1:
                parts = [builder.fadd(*parts[n : n + 2]) for n in range(0, len(parts), 2)]
            into, before = load(kinds[0], sums, column)
            builder.store(builder.fadd(before, parts[0]), into, align=4)
            return target.get_dummy_value()

        return types.void(sums, types.intp, rows, found, types.intp), build

    return add


def _compiled(lanes: int):
    """`add_rows` for rows of `lanes` columns, or of a multiple of LANES where they are LANES."""
    add_eight, add_one = _adder(lanes, 8), _adder(lanes, 1)

    def add(sums, rows, found, known):
        width, n = rows.shape[1], np.int64(0)
        while n + 8 <= known:
            for column in range(0, width, lanes):
                add_eight(sums, column, rows, found, n)
            n += 8
        while n < known:
            for column in range(0, width, lanes):
                add_one(sums, column, rows, found, n)
            n += 1

    # Compiled code, also what other processes have left in the cache, is linked by name: names must not be alike.
    add.__name__ = add.__qualname__ = f"add_rows_of_{lanes}"
    return njit(nogil=True)(add)


_add_1, _add_2, _add_4, _add_8, _add_wide = (_compiled(lanes) for lanes in (1, 2, 4, 8, LANES))


@njit(nogil=True)
def ask_for_row(rows, row):
    """Fetch what `add_rows` will add."""
    width = rows.shape[1]
    for column in range(0, width, LANES):
        prefetch(rows, row * width + column)


@njit(nogil=True)
def add_rows(sums, rows, found, known):
    """Add the rows found[:known] (int64) of `rows`, made by `padded`, to `sums` (float32, as wide as they are)."""
    width = rows.shape[1]
    if width >= LANES:
        _add_wide(sums, rows, found, known)
    elif width == 2:
        _add_2(sums, rows, found, known)
    elif width == 4:
        _add_4(sums, rows, found, known)
    elif width == 8:
        _add_8(sums, rows, found, known)
    else:
        _add_1(sums, rows, found, known)


@njit(nogil=True)
def add_row(sums, rows, row):
    """Add one row."""
    width = np.uint64(rows.shape[1])
    for at in range(width):
        sums[at] += rows[row, at]
