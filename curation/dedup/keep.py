"""The keep policy as a total order over documents: of any two duplicates, the earlier one is kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.dedup.settings import Keep

UNKNOWN_TIME = np.iinfo(np.int64).min


def preference(
    keep: Keep,
    source_names: list[str],
    columns: dict[str, np.ndarray],
    origins: Callable[[np.ndarray], list[str]],
) -> np.ndarray:
    """The documents' positions, most preferred first. Shape (n,), int64; a function of content alone.

    `columns` holds, each of shape (n,): source (index into `source_names`), bytes, created (as `parse_times`
    gives it), high and low (the halves of the id), shard, row, and score (float64, NaN if unknown) if the policy
    has one. `origins(positions)` reads the origin of some documents; it is asked only for those whose id and
    wishes are all equal.
    """
    place = places(keep, source_names)[columns["source"]]

    def ties(some: np.ndarray) -> list[tuple]:
        sources = [source_names[source] for source in columns["source"][some]]
        return list(zip(origins(some), sources, columns["shard"][some], columns["row"][some], strict=True))

    return ordered([place, *wishes(keep, columns)], ties)


def ordered(keys: list[np.ndarray], ties: Callable[[np.ndarray], list[tuple]]) -> np.ndarray:
    """The positions sorted by the first of the `keys`, then the next, ... (each of shape (n,)). Shape (n,), int64.

    `ties(positions)` gives what decides between documents of equal keys; it is asked only for those.
    """
    order = np.lexsort(keys[::-1])
    same = np.ones(max(0, len(order) - 1), bool)
    for column in keys:
        same &= column[order[1:]] == column[order[:-1]]
    runs = _runs(same)
    tied = np.concatenate([order[start:stop] for start, stop in runs] or [order[:0]])
    decides = dict(zip(tied.tolist(), ties(tied), strict=True)) if len(tied) else {}
    for start, stop in runs:
        order[start:stop] = sorted(order[start:stop].tolist(), key=lambda at: (decides[at], at))
    return order


def wishes(keep: Keep, columns: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What the policy looks at after the source, the smallest first: its wishes, then the halves of the id."""
    return [*(_wish(wish, columns) for wish in keep.then), columns["high"], columns["low"]]


def _wish(wish: str, columns: dict[str, np.ndarray]) -> np.ndarray:
    """A number of each document by which the wished-for one comes first, the unknown last."""
    if wish == "best":
        return np.where(np.isnan(columns["score"]), np.inf, -columns["score"])
    if wish == "longest":
        return ~columns["bytes"].astype(np.uint64)
    created = columns["created"]
    return ~created if wish == "newest" else np.where(created == UNKNOWN_TIME, np.iinfo(np.int64).max, created)


def parse_times(created: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """ISO 8601 dates and times as microseconds since 1970 (UTC where no zone is given). Shape (n,), int64.

    A year or a month stands for its first day. Null, and what is no date, is UNKNOWN_TIME, older than any.
    """
    encoded = pc.dictionary_encode(created, null_encoding="encode")
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], created.type).dictionary_encode()
    times = np.array([_microseconds(value) for value in encoded.dictionary.to_pylist()] or [0], np.int64)
    return times[encoded.indices.to_numpy(zero_copy_only=False)] if len(encoded) else np.zeros(0, np.int64)


def _microseconds(value: str | None) -> int:
    text = value or ""
    if len(text) in (4, 7):  # a year or a month is its first day, which fromisoformat does not say
        text += "-01-01" if len(text) == 4 else "-01"
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return int(UNKNOWN_TIME)
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds


def places(keep: Keep, source_names: list[str]) -> np.ndarray:
    """Of each source its place in the list of preferred ones; after them, all the same."""
    places = {name: place for place, name in enumerate(keep.sources)}
    return np.array([places.get(name, len(places)) for name in source_names], np.int64)


def _runs(same: np.ndarray) -> list[tuple[int, int]]:
    """The (start, stop) of each stretch of equal neighbours; same[i] says that i and i + 1 are equal."""
    edges = np.diff(np.concatenate([[0], same.astype(np.int8), [0]]))
    return list(zip(np.flatnonzero(edges == 1).tolist(), (np.flatnonzero(edges == -1) + 1).tolist(), strict=True))
