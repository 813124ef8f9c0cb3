"""Pairs given as token ids, as both sides take them: TRL's as they are, ours as `Data` and `Plan`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from training.config import TrainConfig
from training.data import Data
from training.plan import Plan, make_plan


def as_data(rows: list[dict], pairs: bool, vocabulary: int) -> Data:
    """Rows {prompt, chosen, rejected, margin, source} as `Data` in memory: pairs, or chosen sides as documents.

    Every token of an answer is in the loss, as TRL's completion mask has it. Margin and source may be left out.
    """
    tokens, mask, columns = [], [], {name: [] for name in ("start", "length", "prompt", "rejected", "other")}

    def add(prompt: list[int], answer: list[int]) -> tuple[int, int]:
        start = len(tokens)
        tokens.extend(prompt + answer)
        mask.extend([0] * len(prompt) + [1] * len(answer))
        return start, len(prompt) + len(answer)

    for row in rows:
        start, length = add(row["prompt"], row["chosen"])
        other = add(row["prompt"], row["rejected"]) if pairs else (0, 0)
        for name, value in zip(columns, (start, length, len(row["prompt"]), *other), strict=True):
            columns[name].append(value)
    arrays = {name: np.array(values, np.int64) for name, values in columns.items()}
    count, names = len(rows), [row.get("source", "rows") for row in rows]
    sources = sorted(set(names))
    return Data(
        folder=Path("rows"),
        head={"vocab_size": vocabulary, "manifest_hash": "rows", "kind": "preference", "tokens": len(tokens)},
        tokens=np.array(tokens, np.uint16 if vocabulary <= 1 << 16 else np.uint32),
        mask=np.array(mask, np.uint8),
        ids=pa.chunked_array([[f"{number:032x}" for number in range(count)]]),
        sources=sources,
        source=np.searchsorted(sources, names).astype(np.int32),
        start=arrays["start"],
        length=arrays["length"],
        copies=np.ones(count, np.int64),
        order=np.arange(count, dtype=np.uint64),
        bytes=np.ones(count, np.int64),
        prompt=arrays["prompt"] if pairs else None,
        rejected_start=arrays["rejected"] if pairs else None,
        rejected_length=arrays["other"] if pairs else None,
        margin=np.array([row.get("margin") or 0.0 for row in rows], np.float32) if pairs else None,
    )


def as_plan(data: Data, config: TrainConfig, order: list[int], batch: int) -> Plan:
    """The plan of this data with the rows in a given order, `batch` rows a step (the last step may be short)."""
    plan = make_plan(data, config)
    place = {row: unit for unit, row in enumerate(plan.row.tolist())}
    units = np.array([place[row] for row in order])
    fields = {
        name: values[units]
        for name, values in vars(plan).items()
        if isinstance(values, np.ndarray) and name not in ("skipped", "over", "steps")
    }
    steps = np.array([*range(0, len(order), batch), len(order)], np.int64)
    return replace(plan, **fields, steps=steps)
