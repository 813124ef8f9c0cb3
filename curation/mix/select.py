"""Selection by keyed hash: which documents, how many copies, in which order. Pure functions of ids and seed."""

from __future__ import annotations

import numpy as np
import polars as pl

from curation.chat import CUT, WHOLE
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


def exact_copies_of(
    hashes: np.ndarray, tokens: np.ndarray, target: int, cuttable: np.ndarray
) -> tuple[np.ndarray, int, int]:
    """Copies as of `copies_of`, but never above `target`, and what is missing: the first `cut` tokens of one more.

    Returns (copies, place, cut): place is that of the document to cut, the next by hash that is `cuttable` (bool,
    shape (n,)) and longer than `cut`; -1 and 0 where nothing is missing or there is none such.
    """
    tokens = tokens.astype(np.int64)
    pool = int(tokens.sum())
    if pool == 0:
        return np.zeros(len(tokens), np.int64), -1, 0
    full, rest = divmod(target, pool)
    copies = np.full(len(tokens), full, np.int64)
    by_hash = np.argsort(hashes, kind="stable")
    taken = int(np.searchsorted(np.cumsum(tokens[by_hash]), rest, side="right"))
    copies[by_hash[:taken]] += 1
    cut = rest - int(tokens[by_hash[:taken]].sum())
    next_ones = by_hash[taken:]
    candidates = next_ones[(tokens[next_ones] > cut) & cuttable[next_ones]]
    return (copies, int(candidates[0]), cut) if cut and len(candidates) else (copies, -1, 0)


def select_occurrences(rows: pl.DataFrame, target: int, kind: str, seed: int, exact: bool = False) -> pl.DataFrame:
    """Manifest rows drawn from another manifest's `rows` (of one source), `target` tokens in all.

    The unit is an occurrence: a row of three copies is three items, so a draw keeps the proportions of the mix.
    """
    rows = rows.sort("id", "shard", "row", "transform")
    copies = rows["copies"].to_numpy().astype(np.int64)
    row_of = np.repeat(np.arange(len(rows)), copies)
    copy = np.arange(len(row_of)) - np.repeat(np.cumsum(copies) - copies, copies)
    hashes = occurrence_key(_hashes(rows, key_of(seed, f"select/{kind}"))[row_of], copy)
    tokens, cuts = rows["tokens"].to_numpy()[row_of], {}
    if exact:
        cut_before = rows.filter(pl.col("transform").is_in(list(WHOLE)))["id"]  # a document is cut once
        cuttable = (~rows["id"].is_in(cut_before.implode()) & rows["transform"].is_in(list(CUT))).to_numpy()
        drawn, place, cut = exact_copies_of(hashes, tokens, target, cuttable[row_of])
        cuts = {int(row_of[place]): cut} if cut else {}
    else:
        drawn = copies_of(hashes, tokens, target)
    copies = np.bincount(row_of, weights=drawn, minlength=len(rows)).astype(np.int64)
    return _finish(_with_cuts(rows.with_columns(copies=pl.Series(copies)), cuts), seed)


def _with_cuts(rows: pl.DataFrame, cuts: dict[int, int]) -> pl.DataFrame:
    """The rows and, for each place of `cuts`, one row more: so many first tokens of its document."""
    if not cuts:
        return rows
    more = rows[list(cuts)].with_columns(
        tokens=pl.Series(list(cuts.values())).cast(rows.schema["tokens"]),
        copies=pl.lit(1).cast(rows.schema["copies"]),
        transform=pl.col("transform").replace_strict(CUT),
    )
    return pl.concat([rows, more])


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
