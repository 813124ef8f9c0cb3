"""Keyed hashes of document ids: selection and order that no file order or worker count can change."""

from __future__ import annotations

import binascii
import hashlib

import numpy as np
import pyarrow as pa

GOLDEN = 0x9E3779B97F4A7C15
DRAW = int.from_bytes(b"draw")  # the key of draws
LOW = 2**64 - 1
FEW = 1 << 15  # ids for which compiled kernels are not worth the half second that loading them takes


def key_of(seed: int, purpose: str) -> int:
    """A 64-bit key for one purpose ("holdout", "order", "select/pretrain"), from the recipe's seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "little")


def mix64(x):
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection of 64-bit integers."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keyed_hash(ids: pa.Array | pa.ChunkedArray | np.ndarray | list[str], key: int) -> np.ndarray:
    """A uint64 for each 32-hex-digit document id, uniform under the key. Shape (n,).

    Raises ValueError for an id that is not 32 hex digits.
    """
    return keyed_hash_of(*split_ids(ids), key)


def keyed_hash_of(high: np.ndarray, low: np.ndarray, key: int) -> np.ndarray:
    """As `keyed_hash`, of ids that are split already."""
    first, second = np.uint64((int(key) + GOLDEN) % 2**64), np.uint64(2 * GOLDEN % 2**64)
    if len(high) <= FEW:
        return mix64(mix64(high + first) ^ mix64(low + second))
    from curation.key_kernels import mix_pairs

    out = np.empty(len(high), np.uint64)
    mix_pairs(high, low, first, second, out)
    return out


def draw(hashed: int | np.uint64, number: int) -> int:
    """64 random bits, the `number`-th that a keyed hash gives: `keyed_hash_of` of the two, in plain integers."""
    return _mix64(_mix64(int(hashed) + DRAW + GOLDEN) ^ _mix64(number + 2 * GOLDEN))


def _mix64(x: int) -> int:
    """As `mix64`, of one integer, modulo 2**64: arrays of one take twenty times as long."""
    x &= LOW
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & LOW
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & LOW
    return x ^ (x >> 31)


def occurrence_key(order: np.ndarray, copy: np.ndarray) -> np.ndarray:
    """The place in the global order of copy `copy` (0, 1, ...) of a row whose own key is `order` (uint64).

    Copy 0 keeps the row's key, so that adding copies moves nothing else.
    """
    order = order.astype(np.uint64)
    return np.where(copy == 0, order, keyed_hash_of(order, copy.astype(np.uint64), 0x6D69786572))


def split_ids(ids: pa.Array | pa.ChunkedArray | np.ndarray | list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The two 64-bit halves of each 32-hex-digit id."""
    if isinstance(ids, pa.ChunkedArray):
        halves = [split_ids(chunk) for chunk in ids.chunks] or [(np.zeros(0, np.uint64),) * 2]
        return np.concatenate([high for high, _ in halves]), np.concatenate([low for _, low in halves])
    if not isinstance(ids, pa.Array):
        ids = pa.array(list(ids), pa.string())
    if not pa.types.is_string(ids.type):
        ids = ids.cast(pa.string())
    high, low = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    if len(ids):
        _, offsets, data = ids.buffers()
        offsets = np.frombuffer(offsets, np.int32)[ids.offset : ids.offset + len(ids) + 1]
        wrong = np.flatnonzero(np.diff(offsets) != 32)
        if not len(wrong):
            high, low, wrong = _parse_hex(np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]].tobytes())
        if len(wrong):
            found = ids[int(wrong[0])].as_py()
            raise ValueError(f"row {wrong[0]}: a document id is 32 hex digits, found {found!r}")
    return high, low


def _parse_hex(text: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The halves of ids of 32 bytes each, one after the other, and the places of those that are no hex digits."""
    count = len(text) // 32
    if count <= FEW:
        try:
            halves = np.frombuffer(binascii.unhexlify(text), ">u8").astype(np.uint64)
            return halves[::2].copy(), halves[1::2].copy(), np.zeros(0, np.int64)
        except binascii.Error:
            pass  # the kernel says which
    from curation.key_kernels import parse_hex

    high, low = np.empty(count, np.uint64), np.empty(count, np.uint64)
    good = parse_hex(np.frombuffer(text, "<u8"), high, low)
    return high, low, np.flatnonzero(~good)


def join_ids(high: np.ndarray, low: np.ndarray) -> pa.Array:
    """The ids of which `split_ids` gives the halves: 32 lower-case hex digits each."""
    halves = np.stack([high, low], axis=1).astype(">u8")
    offsets = np.arange(len(high) + 1, dtype=np.int32) * 32
    text = binascii.hexlify(halves.tobytes())
    return pa.StringArray.from_buffers(len(high), pa.py_buffer(offsets), pa.py_buffer(text))
