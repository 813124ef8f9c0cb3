"""Selection by keyed hash: which documents, how many copies, in which order. Pure functions of ids and seed."""

from __future__ import annotations

import numpy as np
import polars as pl

from curation.keys import key_of, keyed_hash, occurrence_key

ROW_COLUMNS = ["id", "source", "bucket", "shard", "row", "tokens", "copies", "transform", "order"]


def prefix_to(tokens: np.ndarray, target: int) -> int:
    """How many items from the front come nearest to `target` tokens in sum. `tokens`: shape (n,), all above 0.

    An item is taken if the target reaches its middle, so the sum is within half an item of the target and a
    larger target never takes fewer.
    """
    doubled_middles = 2 * np.cumsum(tokens, dtype=np.int64) - tokens
    return int(np.searchsorted(doubled_middles, 2 * target, side="right"))


def copies_of(hashes: np.ndarray, tokens: np.ndarray, target: int) -> np.ndarray:
    """Copies of each document so that their tokens come within one document of `target`. Shape (n,), int64.

    Every document as often as the target holds the pool; of the rest, those first by hash once more. Documents of
    equal hash stay in the order given.
    """
    tokens = tokens.astype(np.int64)
    pool = int(tokens.sum())
    if pool == 0:
        return np.zeros(len(tokens), np.int64)
    full, rest = divmod(target, pool)
    copies = np.full(len(tokens), full, np.int64)
    by_hash = np.argsort(hashes, kind="stable")
    copies[by_hash[: prefix_to(tokens[by_hash], rest)]] += 1
    return copies


def select_documents(
    rows: pl.DataFrame, targets: dict[str, int], source: str, kind: str, seed: int
) -> pl.DataFrame:
    """Manifest rows of one source. `rows`: the eligible documents with id, shard, row, bucket, tokens, transform.
    `targets`: tokens by bucket. The key depends on the seed and the kind of mix alone, so two mixes of a kind,
    with other names or budgets, draw the same documents first.
    """
    rows = rows.sort("id", "shard", "row")
    hashes = _hashes(rows, key_of(seed, f"select/{kind}"))
    copies = np.zeros(len(rows), np.int64)
    buckets, tokens = rows["bucket"].to_numpy(), rows["tokens"].to_numpy()
    for bucket, target in targets.items():
        own = np.flatnonzero(buckets == bucket) if len(targets) > 1 else np.arange(len(rows))
        copies[own] = copies_of(hashes[own], tokens[own], target)
    return _finish(rows.with_columns(copies=pl.Series(copies), source=pl.lit(source)), seed)


def select_occurrences(rows: pl.DataFrame, target: int, kind: str, seed: int) -> pl.DataFrame:
    """Manifest rows drawn from another manifest's `rows` (of one source), `target` tokens in all.

    The unit is an occurrence: a row of three copies is three items, so a draw keeps the proportions of the mix.
    """
    rows = rows.sort("id", "shard", "row", "transform")
    copies = rows["copies"].to_numpy().astype(np.int64)
    row_of = np.repeat(np.arange(len(rows)), copies)
    copy = np.arange(len(row_of)) - np.repeat(np.cumsum(copies) - copies, copies)
    hashes = occurrence_key(_hashes(rows, key_of(seed, f"select/{kind}"))[row_of], copy)
    drawn = copies_of(hashes, rows["tokens"].to_numpy()[row_of], target)
    copies = np.bincount(row_of, weights=drawn, minlength=len(rows)).astype(np.int64)
    return _finish(rows.with_columns(copies=pl.Series(copies)), seed)


def _finish(rows: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The rows with a copy at least, with their place in the global order, in the types of a manifest."""
    rows = rows.filter(pl.col("copies") > 0)
    order = pl.Series(_hashes(rows, key_of(seed, "order")))
    typed = rows.with_columns(
        pl.col("tokens").cast(pl.UInt32),
        pl.col("copies").cast(pl.UInt16),
        pl.col("row").cast(pl.UInt32),
        order=order,
    )
    return typed.select(ROW_COLUMNS)


def _hashes(rows: pl.DataFrame, key: int) -> np.ndarray:
    return keyed_hash(rows["id"].to_arrow().cast("string"), key)
