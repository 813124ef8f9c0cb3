"""A long text as sections, and sections as a few partitions: where questions about it can be put.

As Olmo 3 does for its long-context data: a text parts at blank lines, but not after a colon, not before the item
of a list and not before or within displayed mathematics; a section has 500 characters at least.
"""

from __future__ import annotations

import re
from bisect import bisect_left

from curation.derive.draws import Draws

SHORTEST = 500  # characters of a section
FEWEST = 4  # sections of a text that is worth partitioning
SMALLEST, LARGEST = 16_384, 262_144  # characters of a partition, unless a share of the document is less
LEAST_SHARE, MOST_SHARE = 4, 2  # a fourth and a half of the document

_BLANK = re.compile(r"(?:\r?\n[^\S\r\n]*){2,}")
_ITEM = re.compile(r"(?:[-*+•·–]|\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,4})[.)])\s")
_WHOLE = r"(?:align|array|description|enumerate|eqnarray|equation|gather|itemize|multline|tabular|verbatim)\*?\}"
_OPENS, _CLOSES = re.compile(rf"\\begin\{{{_WHOLE}|\\\["), re.compile(rf"\\end\{{{_WHOLE}|\\\]")
_MATHS = re.compile(rf"\$\$|{_OPENS.pattern}")


def sections(text: str) -> list[tuple[int, int]]:
    """The sections of a text as spans of characters, one after the other, all of it: blank lines end a section."""
    spans: list[tuple[int, int]] = []
    start = before = nested = 0
    for blank in _BLANK.finditer(text):
        block = text[before : blank.start()]
        nested = max(0, nested + len(_OPENS.findall(block)) - len(_CLOSES.findall(block)))
        before = blank.end()
        following = text[blank.end() : blank.end() + 16].lstrip()
        parts = (
            blank.end() - start >= SHORTEST
            and not nested
            and block.count("$$") % 2 == 0
            and not block.rstrip().endswith(":")
            and not _ITEM.match(following)
            and not _MATHS.match(following)
        )
        if parts:
            spans.append((start, blank.end()))
            start = blank.end()
    if start < len(text):
        if spans and len(text) - start < SHORTEST:
            start = spans.pop()[0]
        spans.append((start, len(text)))
    return spans


def partitions(spans: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Sections joined to partitions of `size` characters or a little more. The last is at least half as long."""
    made: list[tuple[int, int]] = []
    start = spans[0][0]
    for _, last in spans:
        if last - start >= size:
            made.append((start, last))
            start = last
    end = spans[-1][1]
    if start < end:
        if made and end - start < size // 2:
            start = made.pop()[0]
        made.append((start, end))
    return made


def size_range(characters: int) -> tuple[int, int]:
    """The smallest and the largest partition of a document of so many characters."""
    return min(SMALLEST, characters // LEAST_SHARE), min(LARGEST, characters // MOST_SHARE)


def power_of_two(characters: int, draws: Draws) -> int:
    """A partition's size as a power of two, drawn from those in the range."""
    low, high = size_range(characters)
    powers = [1 << n for n in range(1, 40)]
    fitting = [power for power in powers[bisect_left(powers, low) :] if power <= high]
    return draws.one(fitting or [max(1, low)])


def any_size(characters: int, draws: Draws) -> int:
    """A partition's size, drawn from all in the range."""
    return draws.between(*size_range(characters))
