"""Keyed hashes of document ids: selection and order that no file order or worker count can change."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
    high, low = split_ids(ids)
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
        ids = ids.combine_chunks()
    if not isinstance(ids, pa.Array):
        ids = pa.array(list(ids), pa.string())
    lengths = pc.binary_length(ids.cast(pa.string())).fill_null(0).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != 32)
    if len(wrong):
        raise ValueError(f"row {wrong[0]}: a document id is 32 hex digits, found {ids[int(wrong[0])].as_py()!r}")
    raw = bytes.fromhex("".join(ids.to_pylist()))
    if len(raw) != 16 * len(ids):  # fromhex passes over blanks
        raise ValueError("a document id is 32 hex digits, found one with blanks")
    halves = np.frombuffer(raw, dtype=">u8").astype(np.uint64).reshape(-1, 2)
    return halves[:, 0].copy(), halves[:, 1].copy()
