"""What a run has done so far: the loader's state and everything that is reported of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from training.batch import Batch
from training.data import Data
from training.plan import Plan

PARTS = ("in_loss", "masked", "truncated", "padding")


class AccountError(Exception):
    """Tokens that were fed are not those that the manifest holds."""


@dataclass
class Trace:
    """Plain values alone, so that JSON holds all of it exactly."""

    manifest_hash: str
    sources: list[str]
    step: int = 0  # steps done: all that the loader needs to go on
    account: dict[str, list[int]] = field(default_factory=dict)  # tokens by part, by source
    steps: list[dict] = field(default_factory=list)  # a row a step
    by_source: list[dict] = field(default_factory=list)  # a row a step and source

    def __post_init__(self):
        for part in PARTS:
            self.account.setdefault(part, [0] * len(self.sources))

    def add(self, counts: np.ndarray) -> int:
        """Add what `count_tokens` counted of a step; returns the tokens that were fed."""
        for part, more in zip(PARTS, counts.astype(np.int64).tolist(), strict=True):
            self.account[part] = [had + new for had, new in zip(self.account[part], more, strict=True)]
        return int(counts[:2].sum())


def count_tokens(data: Data, plan: Plan, units: np.ndarray, batch: Batch) -> np.ndarray:
    """The tokens of a batch that is fed, counted from the batch itself: int64 (parts, sources)."""
    size, sequences = len(data.sources), data.source[batch.rows]
    fed = np.bincount(sequences, batch.lengths, size).astype(np.int64)
    in_loss = np.bincount(sequences[batch.sequence], minlength=size)
    truncated = np.bincount(data.source[plan.row[units]], plan.truncated[units], size).astype(np.int64)
    padding = np.zeros(size, np.int64)  # tokens of the row that belong to no sequence
    padding[sequences[-1]] = batch.tokens.numel() - sum(batch.pieces)
    return np.stack([in_loss, fed - in_loss, truncated, padding])


def token_account(data: Data, plan: Plan, trace: Trace, epochs: int) -> dict[str, dict[str, int]]:
    """The tokens of a finished run by source, and whether they close.

    documents: rows of the manifest. occurrences: times they are fed, copies and epochs. fragments: what they
    were cut into (of pairs: pairs fed). over_length: occurrences longer than the sequence length. left_out: those
    not fed at all, for that, or since nothing in the loss was left. tokens = manifest tokens * copies * epochs =
    delivered + left, where `left` lies beyond max_steps. delivered = in_loss + masked + truncated; padding comes
    on top.
    Raises AccountError, naming the source, where counts taken from the batches differ from the manifest's.
    """
    size = len(data.sources)

    def by_source(rows: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(data.source[rows], weights, size).astype(np.int64)

    everything = np.arange(data.rows)
    times = data.copies * epochs
    row_tokens = data.length + (0 if data.rejected_length is None else data.rejected_length)
    fed, beyond = slice(0, plan.steps[-1]), slice(plan.steps[-1], None)
    columns = {
        "documents": by_source(everything),
        "occurrences": by_source(everything, times),
        "fragments": by_source(plan.row[fed]),
        "over_length": by_source(plan.over),
        "left_out": by_source(plan.skipped),
        "tokens": by_source(everything, times * row_tokens),
        "left": by_source(plan.row[beyond], (plan.tokens + plan.truncated)[beyond]),
        **{part: np.array(trace.account[part], np.int64) for part in PARTS},
    }
    columns["truncated"] = columns["truncated"] + by_source(plan.skipped, row_tokens[plan.skipped])
    columns["delivered"] = columns["in_loss"] + columns["masked"] + columns["truncated"]
    expected_loss = by_source(plan.row[fed], plan.in_loss[fed])
    for position, source in enumerate(data.sources):
        line = {name: int(values[position]) for name, values in columns.items()}
        if line["tokens"] != line["delivered"] + line["left"] or line["in_loss"] != expected_loss[position]:
            raise AccountError(
                f"source '{source}': {line}; expected tokens = delivered + left, and "
                f"{expected_loss[position]} tokens in the loss"
            )
    return {
        source: {name: int(columns[name][p]) for name in sorted(columns)} for p, source in enumerate(data.sources)
    }
