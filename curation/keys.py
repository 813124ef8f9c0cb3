"""Keyed hashes of document ids: selection and order that no file order or worker count can change."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
from numba import njit


def key_of(seed: int, purpose: str) -> int:
    """A 64-bit key for one purpose ("holdout", "order", "select/pretrain"), from the recipe's seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "little")


@njit(inline="always")
def mix64(x):
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection of 64-bit integers."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(nogil=True, cache=True)
def _mix_pairs(high, low, key, out):
    golden = np.uint64(0x9E3779B97F4A7C15)
    for i in range(len(high)):
        h = mix64(high[i] + key + golden)
        out[i] = mix64(h ^ mix64(low[i] + golden * np.uint64(2)))


def keyed_hash(ids: pa.Array | pa.ChunkedArray | np.ndarray | list[str], key: int) -> np.ndarray:
    """A uint64 for each 32-hex-digit document id, uniform under the key. Shape (n,).

    Raises ValueError for an id that is not 32 hex digits.
    """
    return keyed_hash_of(*split_ids(ids), key)


def keyed_hash_of(high: np.ndarray, low: np.ndarray, key: int) -> np.ndarray:
    """As `keyed_hash`, of ids that are split already."""
    out = np.empty(len(high), np.uint64)
    _mix_pairs(high, low, np.uint64(key), out)
    return out


def draw(hashed: np.uint64, number: int) -> int:
    """64 random bits, the `number`-th that a keyed hash gives."""
    out = np.empty(1, np.uint64)
    _mix_pairs(np.array([hashed], np.uint64), np.array([number], np.uint64), np.uint64(0x64726177), out)
    return int(out[0])


def occurrence_key(order: np.ndarray, copy: np.ndarray) -> np.ndarray:
    """The place in the global order of copy `copy` (0, 1, ...) of a row whose own key is `order` (uint64).

    Copy 0 keeps the row's key, so that adding copies moves nothing else.
    """
    order = order.astype(np.uint64)
    out = np.empty(len(order), np.uint64)
    _mix_pairs(order, copy.astype(np.uint64), np.uint64(0x6D69786572), out)
    return np.where(copy == 0, order, out)


def split_ids(ids: pa.Array | pa.ChunkedArray | np.ndarray | list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The two 64-bit halves of each 32-hex-digit id."""
    if isinstance(ids, pa.ChunkedArray):
        halves = [split_ids(chunk) for chunk in ids.chunks] or [(np.zeros(0, np.uint64),) * 2]
        return np.concatenate([high for high, _ in halves]), np.concatenate([low for _, low in halves])
    if not isinstance(ids, pa.Array):
        ids = pa.array(list(ids), pa.string())
    if not pa.types.is_string(ids.type):
        ids = ids.cast(pa.string())
    high, low = np.empty(len(ids), np.uint64), np.empty(len(ids), np.uint64)
    if len(ids):
        _, offsets, data = ids.buffers()
        offsets = np.frombuffer(offsets, np.int32)[ids.offset : ids.offset + len(ids) + 1]
        wrong = np.flatnonzero(np.diff(offsets) != 32)
        if not len(wrong):
            text = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
            wrong = np.flatnonzero(~_parse_hex(np.frombuffer(text.tobytes(), "<u8"), high, low))
        if len(wrong):
            found = ids[int(wrong[0])].as_py()
            raise ValueError(f"row {wrong[0]}: a document id is 32 hex digits, found {found!r}")
    return high, low


def join_ids(high: np.ndarray, low: np.ndarray) -> pa.Array:
    """The ids of which `split_ids` gives the halves: 32 lower-case hex digits each."""
    text = np.empty(32 * len(high), np.uint8)
    _format_hex(high, low, text)
    offsets = np.arange(len(high) + 1, dtype=np.int32) * 32
    return pa.StringArray.from_buffers(len(high), pa.py_buffer(offsets), pa.py_buffer(text))


@njit(inline="always")
def _is_hex(word):
    """Whether eight bytes are hex digits: the high bit of each is set by the sums for 0 to 9, or for a to f."""
    every = np.uint64(0x8080808080808080)
    lower = word | np.uint64(0x2020202020202020)
    digit = (word + np.uint64(0x5050505050505050)) & ~(word + np.uint64(0x4646464646464646))
    letter = (lower + np.uint64(0x1F1F1F1F1F1F1F1F)) & ~(lower + np.uint64(0x1919191919191919))
    return (word & every) == 0 and ((digit | letter) & every) == every


@njit(inline="always")
def _hex_value(word):
    """The number that eight hex digits spell, the first of them in the lowest byte."""
    letters = (word >> np.uint64(6)) & np.uint64(0x0101010101010101)
    digits = (word & np.uint64(0x0F0F0F0F0F0F0F0F)) + np.uint64(9) * letters
    pairs = ((digits << np.uint64(4)) | (digits >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    first, second = pairs << np.uint64(24), pairs & np.uint64(0x0000000000FF0000)
    third, fourth = (pairs >> np.uint64(24)) & np.uint64(0x000000000000FF00), pairs >> np.uint64(48)
    return (first & np.uint64(0x00000000FF000000)) | second | third | fourth


@njit(nogil=True, cache=True)
def _parse_hex(words, high, low):
    """Read ids of four words each; which of them are ids."""
    good = np.empty(len(high), np.bool_)
    for i in range(len(high)):
        a, b, c, d = words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]
        good[i] = _is_hex(a) and _is_hex(b) and _is_hex(c) and _is_hex(d)
        high[i] = (_hex_value(a) << np.uint64(32)) | _hex_value(b)
        low[i] = (_hex_value(c) << np.uint64(32)) | _hex_value(d)
    return good


@njit(nogil=True, cache=True)
def _format_hex(high, low, text):
    for i in range(len(high)):
        for k in range(32):
            value = high[i] if k < 16 else low[i]
            digit = (value >> np.uint64(60 - 4 * (k % 16))) & np.uint64(15)
            text[32 * i + k] = digit + (48 if digit < 10 else 87)
