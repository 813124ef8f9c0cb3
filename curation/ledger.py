"""The decision ledger: for each stage, a row for each document that it examined.

A stage that decides writes `ledger/<source>/<shard>.parquet` (schema LEDGER). A document is alive as long as no
stage says keep = false.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.files import read_parquet, write_parquet
from curation.schema import LEDGER
from curation.steps import StepOutput


def ledger_path(folder: Path, source: str, shard: str) -> Path:
    return folder / "ledger" / source / f"{shard}.parquet"


def write_ledger(
    folder: Path,
    source: str,
    shard: str,
    *,
    stage: str,
    ids: pa.Array,
    rows: np.ndarray,
    keep: np.ndarray,
    rule: pa.Array | None = None,
    value: np.ndarray | None = None,
    threshold: np.ndarray | None = None,
    twin: pa.Array | None = None,
) -> None:
    """Write one stage's decisions on one shard. All columns have a length of n, in rising order of `rows`.

    `value` and `threshold` are NaN where there is none; they are stored as null.
    """
    n = len(ids)
    nothing = np.full(n, np.nan)
    table = pa.table(
        {
            "id": ids,
            "row": pa.array(rows, pa.uint32()),
            "stage": pa.array([stage] * n, pa.string()),
            "rule": rule if rule is not None else pa.nulls(n, pa.string()),
            "value": pa.array(nothing if value is None else value, pa.float64(), from_pandas=True),
            "threshold": pa.array(nothing if threshold is None else threshold, pa.float64(), from_pandas=True),
            "keep": pa.array(keep, pa.bool_()),
            "twin": twin if twin is not None else pa.nulls(n, pa.string()),
        },
        schema=LEDGER,
    )
    write_parquet(ledger_path(folder, source, shard), table)


def alive(ledgers: Iterable[StepOutput], source: str, shard: str, rows: int) -> np.ndarray:
    """Which of a shard's documents no stage has dropped so far. Shape (rows,), bool."""
    kept = np.ones(rows, bool)
    for ledger in ledgers:
        path = ledger_path(ledger.folder, source, shard)
        if path.exists():
            table = read_parquet(path, ["row", "keep"])
            dropped = table["row"].to_numpy()[~table["keep"].to_numpy(zero_copy_only=False)]
            kept[dropped] = False
    return kept
