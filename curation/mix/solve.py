"""Whole tokens out of proportions: apportionment with caps and floors, exact and free of jumps.

Webster's method with caps and floors. The allocation of n tokens is the first n seats of one fixed list of
seats, so a larger total never takes a token from anyone: this is what makes a small budget's mix a part of a
large one's.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from fractions import Fraction

Number = int | Fraction


def water_fill(
    weights: Sequence[Number], caps: Sequence[int], total: int, floors: Sequence[int] | None = None
) -> list[int]:
    """Split `total` tokens in proportion to `weights`, none above its cap or below its floor; what a cap holds
    back goes to the rest, what a floor takes comes from it.

    Exact: the parts are integers >= 0 and sum to `total`. A cell of weight 0 gets its floor. Monotone: with a
    larger total no part is smaller. Ties go to the earlier cell. Raises ValueError if caps and floors do not
    allow the total.
    """
    floors = [0] * len(caps) if floors is None else floors
    caps = [cap if weight > 0 else floor for weight, cap, floor in zip(weights, caps, floors, strict=True)]
    if any(floor > cap for floor, cap in zip(floors, caps, strict=True)):
        raise ValueError("a floor is above its cap")
    if not sum(floors) <= total <= sum(caps):
        raise ValueError(f"{total} tokens do not fit: the cells take {sum(floors)} to {sum(caps)}")
    level = _water_level(weights, caps, floors, total)
    parts = [
        max(floor, min(cap, _round_half_up(weight * level)))
        for weight, cap, floor in zip(weights, caps, floors, strict=True)
    ]
    _adjust(parts, weights, caps, floors, total)
    return parts


def apportion(weights: Sequence[Number], total: int) -> list[int]:
    """Split `total` tokens in proportion to `weights`, without caps. See `water_fill`."""
    return water_fill(weights, [total] * len(weights), total)


def _water_level(weights: Sequence[Number], caps: Sequence[int], floors: Sequence[int], total: int) -> Fraction:
    """The level at which weight * level, kept between floor and cap, sums to `total`, in real numbers."""
    changes: list[tuple[Fraction, Number]] = []  # a level, and by how much the sum rises faster from there on
    for weight, cap, floor in zip(weights, caps, floors, strict=True):
        if weight > 0:
            changes += [(Fraction(floor) / weight, weight), (Fraction(cap) / weight, -weight)]
    level, filled, slope = Fraction(0), Fraction(sum(floors)), Fraction(0)
    for at, change in sorted(changes):
        if filled + slope * (at - level) >= total:
            break
        filled += slope * (at - level)
        level, slope = at, slope + change
    return level + (total - filled) / slope if slope else level


def _adjust(
    parts: list[int], weights: Sequence[Number], caps: Sequence[int], floors: Sequence[int], total: int
) -> None:
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
            for place, (part, weight, floor) in enumerate(zip(parts, weights, floors, strict=True))
            if weight > 0 and part > floor
        ]
        heapq.heapify(seats)
        for _ in range(-missing):
            _, place = heapq.heappop(seats)
            parts[-place] -= 1
            if parts[-place] > floors[-place]:
                heapq.heappush(seats, (-Fraction(2 * parts[-place] - 1) / weights[-place], place))


def _round_half_up(number: Fraction) -> int:
    return (2 * number.numerator + number.denominator) // (2 * number.denominator)
