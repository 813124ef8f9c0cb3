"""Draws that depend on a document's id alone: the same in every run, on every machine, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from curation.keys import draw, key_of, keyed_hash

Item = TypeVar("Item")


class Draws:
    """A sequence of random integers of its own for each document and purpose."""

    def __init__(self, document: str, purpose: str):
        """`document`: its id, 32 hex digits."""
        self._hashed = keyed_hash([document], key_of(0, purpose))[0]
        self._drawn = 0

    def below(self, bound: int) -> int:
        """Uniform over 0 to bound - 1."""
        self._drawn += 1
        return draw(self._hashed, self._drawn) * bound >> 64

    def between(self, low: int, high: int) -> int:
        """Uniform over low to high, both among them."""
        return low + self.below(high - low + 1)

    def one(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def some(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` of the items (all, if there are no more), in random order."""
        left = list(items)
        taken = min(count, len(left))
        for place in range(taken):
            other = place + self.below(len(left) - place)
            left[place], left[other] = left[other], left[place]
        return left[:taken]
