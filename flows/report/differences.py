"""Where two texts differ, word by word, as short marked pieces.

White space is no difference: a licence wrapped at another width is the same licence, as it is to MinHash.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

from flows.report.human import clean

WORDS_COMPARED = 1200  # per text, after the common beginning: bounds the time of difflib
CONTEXT = 12  # words shown around a difference
SHOWN = 1800  # characters of a comparison shown

Kind = Literal["same", "ins", "del", "gap"]


class Piece(NamedTuple):
    """A run of text: in both, only in the second (ins), only in the first (del), or left out (gap)."""

    kind: Kind
    text: str


def differences(first: str, second: str) -> list[Piece]:
    """The pieces that lead from `first` to `second`, long equal runs folded, bounded in time and size."""
    a, b = _words(clean(first)), _words(clean(second))
    start = max(_common_beginning(a, b) - CONTEXT, 0)
    left, right = a[start : start + WORDS_COMPARED], b[start : start + WORDS_COMPARED]
    pieces = [Piece("gap", "")] if start else []
    matcher = SequenceMatcher(
        None, [word.strip() for word in left], [word.strip() for word in right], autojunk=False
    )
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag == "equal":
            pieces += _folded(left[i:j], first=i == 0 and not start, last=j == len(left))
        else:
            pieces += [Piece("del", "".join(left[i:j]))] if j > i else []
            pieces += [Piece("ins", "".join(right[k:m]))] if m > k else []
    if len(a) > start + WORDS_COMPARED or len(b) > start + WORDS_COMPARED:
        pieces.append(Piece("gap", ""))
    return _bounded(pieces)


def _words(text: str) -> list[str]:
    """Words with the white space after them."""
    return re.findall(r"\S+\s*", text)


def _common_beginning(a: list[str], b: list[str]) -> int:
    """How many words both begin with."""
    pairs = zip(a, b, strict=False)
    return next((n for n, (x, y) in enumerate(pairs) if x.strip() != y.strip()), min(len(a), len(b)))


def _folded(words: list[str], *, first: bool, last: bool) -> list[Piece]:
    if len(words) <= 2 * CONTEXT + 4:
        return [Piece("same", "".join(words))]
    head = [] if first else [Piece("same", "".join(words[:CONTEXT]))]
    tail = [] if last else [Piece("same", "".join(words[-CONTEXT:]))]
    return [*head, Piece("gap", ""), *tail]


def _bounded(pieces: list[Piece]) -> list[Piece]:
    out, left = [], SHOWN
    for piece in pieces:
        if left <= 0:
            return [*out, Piece("gap", "")]
        cut = piece.text[:left]
        out.append(Piece(piece.kind, cut if len(cut) == len(piece.text) else cut + "…"))
        left -= len(cut)
    return out
