"""Whole tokens out of proportions: apportionment with caps, exact and free of jumps.

Webster's method with caps. The allocation of n tokens is the first n seats of one fixed list of seats, so a larger
total never takes a token from anyone: this is what makes a small budget's mix a part of a large one's.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from fractions import Fraction

Number = int | Fraction


def water_fill(weights: Sequence[Number], caps: Sequence[int], total: int) -> list[int]:
    """Split `total` tokens in proportion to `weights`, none above its cap; what a cap holds back goes to the rest.

    Exact: the parts are integers >= 0 and sum to `total`. A cell of weight 0 gets nothing. Monotone: with a larger
    total no part is smaller. Ties go to the earlier cell. Raises ValueError if the caps do not allow the total.
    """
    room = sum(cap for weight, cap in zip(weights, caps, strict=True) if weight > 0)
    if not 0 <= total <= room:
        raise ValueError(f"{total} tokens do not fit: the cells take 0 to {room}")
    level = _water_level(weights, caps, total)
    parts = [min(cap, _round_half_up(weight * level)) for weight, cap in zip(weights, caps, strict=True)]
    _adjust(parts, weights, caps, total)
    return parts


def apportion(weights: Sequence[Number], total: int) -> list[int]:
    """Split `total` tokens in proportion to `weights`, without caps. See `water_fill`."""
    return water_fill(weights, [total] * len(weights), total)


def _water_level(weights: Sequence[Number], caps: Sequence[int], total: int) -> Fraction:
    """The level at which min(cap, weight * level) sums to `total`, in real numbers."""
    cells = sorted(
        (Fraction(cap) / weight, weight, cap) for weight, cap in zip(weights, caps, strict=True) if weight > 0
    )
    filled, open_weight = 0, sum((Fraction(weight) for _, weight, _ in cells), Fraction(0))
    for full_at, weight, cap in cells:
        if filled + open_weight * full_at >= total:
            return (total - filled) / open_weight
        filled += cap
        open_weight -= weight
    return cells[-1][0] if cells else Fraction(0)


def _adjust(parts: list[int], weights: Sequence[Number], caps: Sequence[int], total: int) -> None:
    """Give or take the few tokens that rounding left, in the order of the seats ((seat - 1/2) / weight)."""
    missing = total - sum(parts)
    if missing > 0:
        seats = [
            (Fraction(2 * part + 1) / weight, place)
            for place, (part, weight, cap) in enumerate(zip(parts, weights, caps, strict=True))
            if weight > 0 and part < cap
        ]
        heapq.heapify(seats)
        for _ in range(missing):
            _, place = heapq.heappop(seats)
            parts[place] += 1
            if parts[place] < caps[place]:
                heapq.heappush(seats, (Fraction(2 * parts[place] + 1) / weights[place], place))
    elif missing < 0:
        seats = [
            (-Fraction(2 * part - 1) / weight, -place)
            for place, (part, weight) in enumerate(zip(parts, weights, strict=True))
            if weight > 0 and part > 0
        ]
        heapq.heapify(seats)
        for _ in range(-missing):
            _, place = heapq.heappop(seats)
            parts[-place] -= 1
            if parts[-place] > 0:
                heapq.heappush(seats, (-Fraction(2 * parts[-place] - 1) / weights[-place], place))


def _round_half_up(number: Fraction) -> int:
    return (2 * number.numerator + number.denominator) // (2 * number.denominator)
