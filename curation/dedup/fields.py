"""What deduplication reads of documents besides measurements: scores to keep by, and keys of exact duplicates."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from curation.dedup.settings import Exact
from curation.files import read_parquet


def scores(pool: Path, measured: Path, name: str, rows: np.ndarray) -> np.ndarray:
    """Of some rows of a shard the measured column `name`, or that field of the metadata; NaN for no number.

    Shape (n,), float64. Raises ValueError where a measured column holds no numbers.
    """
    if name in pq.read_schema(measured).names:
        column = read_parquet(measured, columns=[name])[name]
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise ValueError(f"{measured}: keep.score is '{name}', a column of {column.type}; expected numbers")
        values = column.cast(pa.float64()).to_numpy()[rows]
    else:
        found = metadata(pool, name, rows)
        number = (int, float)
        values = np.array(
            [v if isinstance(v, number) and not isinstance(v, bool) else np.nan for v in found], float
        )
    return values


def metadata(pool: Path, name: str, rows: np.ndarray) -> list[Any]:
    """Of some rows of a pool's shard the field `name` (dotted where nested) of the metadata; None without it."""
    names = pq.read_schema(pool).names
    if "value" in names:  # of records that stay in their files: there the field has been read
        return read_parquet(pool, ["value"])["value"].take(pa.array(rows)).to_pylist()
    if "metadata" not in names:
        return [None] * len(rows)
    column = read_parquet(pool, columns=["metadata"])["metadata"].take(pa.array(rows))
    return [_field(text, name) for text in column.to_pylist()]


def _field(text: str | None, name: str) -> Any:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return None
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def exact_keys(exact: Exact, values: Iterable[Any], unknown: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """The halves of the 128-bit hash of each value made alike, uint64 (n,); of None of its name in `unknown`."""
    digests = [
        xxhash.xxh3_128_intdigest(_encoded(f"\0{name}" if value is None else f"\1{alike(value, exact)}"))
        for value, name in zip(values, unknown, strict=True)
    ]
    high = np.array([digest >> 64 for digest in digests], np.uint64)
    return high, np.array([digest & ((1 << 64) - 1) for digest in digests], np.uint64)


def texts_of(batches: Iterable[pa.Array]) -> Iterator[str]:
    """The texts of batches, one after the other."""
    for batch in batches:
        yield from batch.to_pylist()


def alike(value: Any, exact: Exact) -> str:
    """A text, or the JSON of another value, made alike as the settings say."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    if exact.unicode:
        text = unicodedata.normalize("NFC", text)
    if exact.case:
        text = text.casefold()
    if exact.punctuation:
        text = text.translate(_punctuation())
    return " ".join(text.split()) if exact.white_space else text


@cache
def _punctuation() -> dict[int, None]:
    return {code: None for code in range(0x110000) if unicodedata.category(chr(code))[0] == "P"}


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
