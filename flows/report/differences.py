"""Where two texts differ, word by word, as short marked pieces."""

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
    common = 0
    while common < min(len(a), len(b)) and a[common] == b[common]:
        common += 1
    start = max(common - CONTEXT, 0)
    left, right = a[start : start + WORDS_COMPARED], b[start : start + WORDS_COMPARED]
    pieces = [Piece("gap", "")] if start else []
    for tag, i, j, k, m in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            pieces += _folded(left[i:j], first=i == 0 and not start, last=j == len(left))
        else:
            pieces += [Piece("del", "".join(left[i:j]))] if j > i else []
            pieces += [Piece("ins", "".join(right[k:m]))] if m > k else []
    if len(a) > start + WORDS_COMPARED or len(b) > start + WORDS_COMPARED:
        pieces.append(Piece("gap", ""))
    return _bounded(pieces)


def _words(text: str) -> list[str]:
    """Words with the white space after them, so that joining gives the text back."""
    return re.findall(r"\s*\S+\s?|\s+", text)


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
