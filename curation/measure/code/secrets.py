"""Credentials in documents: keys and tokens whose form can be told from other text, checked where they can be.

A kernel finds the few documents that hold the beginning of one; those are searched with regular expressions.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Callable

import numpy as np

from curation.compiled import njit
from curation.measure.intrinsics import sequences_mask, trailing_zeros
from curation.measure.needles import holds_needle, needle_tables
from curation.measure.utf8 import block_at

STEP = 60  # bytes of a block of 64 that the last bytes of a beginning are looked for at
_HERE, _1 = np.uint64((1 << STEP) - 1), np.uint64(1)

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _checksum_fits(token: bytes) -> bool:
    """Whether the last six digits are the CRC-32 of what lies between the underscore and them, in base 62."""
    body, given = token[4:-6], token[-6:].decode()
    number, digits = zlib.crc32(body), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = BASE62[digit] + digits
    return digits == given


def _is_jwt(token: bytes) -> bool:
    """Whether the first part is the JSON of a header that names its algorithm."""
    head = token.partition(b".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return False
    return isinstance(header, dict) and isinstance(header.get("alg"), str)


def _no_example(token: bytes) -> bool:
    """Whether it is none of the keys that documentation shows."""
    return b"EXAMPLE" not in token


def _any(token: bytes) -> bool:
    return True


# What it begins with; the expression; the check. Forms are those that the providers publish.
_BREAK = rb"(?:\s|\\[nr])"  # as such, or as strings of programs write it
_PEM = (
    rb"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    + _BREAK
    + rb"{1,8}(?:[A-Za-z-]{1,40}:[^\n]{0,200}\s{1,4}){0,8}[A-Za-z0-9+/]{32}"
)
PATTERNS: tuple[tuple[bytes, bytes, Callable[[bytes], bool]], ...] = (
    *((start, rb"(?<![A-Za-z0-9])" + start + rb"[A-Z2-7]{16}(?![A-Za-z0-9])", _no_example)
      for start in (b"AKIA", b"ASIA")),  # AWS access key ids are base 32
    (b"-----BEGIN", _PEM, _any),
    *((start, rb"\b" + start + rb"[A-Za-z0-9]{36}\b", _checksum_fits)
      for start in (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_")),  # GitHub
    (b"github_pat_", rb"\bgithub_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}\b", _any),
    (b"glpat-", rb"\bglpat-[A-Za-z0-9_-]{20}(?![A-Za-z0-9_-])", _any),  # GitLab
    (b"xox", rb"\bxox[abprs]-\d{9,13}-[A-Za-z0-9-]{20,80}\b", _any),  # Slack
    (b"AIza", rb"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])", _any),  # Google
    (b"sk_live_", rb"\bsk_live_[A-Za-z0-9]{24,99}\b", _any),  # Stripe
    (b"eyJ", rb"\beyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{16,1000}", _is_jwt),
)  # fmt: skip
_COMPILED = [(re.compile(expression), check) for _, expression, check in PATTERNS]


_RARE = {start: start[-4:] for start, _, _ in PATTERNS}
rare_mask = sequences_mask(_RARE.values())
NEEDLES = needle_tables(_RARE)


def secret_counts(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """How many credentials each document holds: int64 (n,)."""
    candidates = np.zeros(len(offsets) - 1, np.bool_)
    _find_candidates(data, offsets, NEEDLES, candidates)
    counts = np.zeros(len(offsets) - 1, np.int64)
    places = offsets.tolist()
    for row in np.flatnonzero(candidates).tolist():
        counts[row] = secrets_in(bytes(data[places[row] : places[row + 1]]))
    return counts


def secrets_in(text: bytes) -> int:
    """How many credentials a text (UTF-8) holds."""
    return sum(check(match[0]) for pattern, check in _COMPILED for match in pattern.finditer(text))


@njit(nogil=True, cache=True)
def _find_candidates(data, offsets, needles, out):
    for document in range(len(offsets) - 1):
        begin, end = offsets[document], offsets[document + 1]
        at = begin
        while at < end and not out[document]:
            place, shift = block_at(data, at)
            hits = rare_mask(data, place) >> shift & _HERE
            while hits and not out[document]:
                hit = at + trailing_zeros(hits)
                out[document] = hit < end and holds_needle(data, hit, begin, end, needles)
                hits &= hits - _1
            at += STEP
