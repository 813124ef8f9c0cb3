"""A micro-batch: sequences laid end to end in one row, with the positions whose next token is in the loss."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from training.data import Data
from training.plan import Plan


@dataclass(frozen=True)
class Batch:
    """t tokens of s sequences, n of them followed by a token in the loss. Without padding."""

    tokens: torch.Tensor  # (1, t) int64
    positions: torch.Tensor  # (1, t) int64, from 0 in each sequence
    lengths: list[int]  # (s,)
    rows: np.ndarray  # (s,) int64, the index row of each sequence
    selected: torch.Tensor  # (n,) int64, places in the row of t tokens
    targets: torch.Tensor  # (n,) int64, the token after each
    sequence: np.ndarray  # (n,) int64, the sequence of each
    answer_tokens: float = 1.0  # of pairs: tokens in the loss of a chosen answer, on average over the whole step

    def sum_by_sequence(self, values: torch.Tensor) -> torch.Tensor:
        """(n,) -> (s,), differentiable."""
        index = torch.from_numpy(self.sequence).to(values.device)
        return values.new_zeros(len(self.lengths)).index_add(0, index, values)


def make_batch(
    data: Data,
    rows: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    prompts: np.ndarray,
    device: torch.device,
) -> Batch:
    """The sequences tokens[start : start + length] as one batch. Arrays: (s,) int64.

    A token is in the loss if its mask says so, it is not among the first `prompts` tokens of its sequence, and
    it is not the first: that one has nothing before it. Masks go by place and length, never by token id.
    """
    spans = [slice(start, start + length) for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
    tokens = np.concatenate([data.tokens[span] for span in spans]).astype(np.int64)
    mask = np.concatenate([data.mask[span] for span in spans]).astype(bool)
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    positions = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    targets = np.flatnonzero(mask & (positions >= np.maximum(1, prompts)[sequence]))
    return Batch(
        tokens=torch.from_numpy(tokens)[None].to(device),
        positions=torch.from_numpy(positions)[None].to(device),
        lengths=lengths.tolist(),
        rows=rows,
        selected=torch.from_numpy(targets - 1).to(device),
        targets=torch.from_numpy(tokens[targets]).to(device),
        sequence=sequence[targets],
    )


def batch_of_units(data: Data, plan: Plan, units: np.ndarray, device: torch.device) -> Batch:
    """The batch of some units. Of pairs: all chosen sequences, then all rejected ones in the same order."""
    rows, starts, lengths, prompts = plan.row[units], plan.start[units], plan.length[units], plan.prompt[units]
    if not plan.other_length[units].any():
        return make_batch(data, rows, starts, lengths, prompts, device)
    rows, prompts = np.tile(rows, 2), np.tile(prompts, 2)
    starts = np.concatenate([starts, plan.other_start[units]])
    lengths = np.concatenate([lengths, plan.other_length[units]])
    batch = make_batch(data, rows, starts, lengths, prompts, device)
    return replace(batch, answer_tokens=plan.answer_tokens(int(units[0])))
